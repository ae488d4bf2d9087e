/** Reader of Thrift's compact protocol, in which Parquet keeps its descriptions (thrift/doc/specs/thrift-compact-protocol.md). */

/** A struct is an object of its values by the numbers of its fields. */
export class Reader {
  /** @param {Uint8Array} bytes @param {number} [at] */
  constructor(bytes, at = 0) {
    this.bytes = bytes;
    this.at = at;
  }

  byte() {
    if (this.at >= this.bytes.length) throw new RangeError("the bytes end too soon");
    return this.bytes[this.at++];
  }

  /** Return an unsigned integer of up to 53 bits. */
  varint() {
    let value = 0, factor = 1;
    for (let length = 0; length < 10; length++) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
    throw new RangeError("an integer has too many bytes");
  }

  zigzag() {
    const value = this.varint();
    return value % 2 ? -(value + 1) / 2 : value / 2;
  }

  binary() {
    const length = this.varint();
    if (length > this.bytes.length - this.at) throw new RangeError("the bytes end too soon");
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }

  /** @param {number} [depth] @returns {Record<number, any>} */
  struct(depth = 0) {
    if (depth > 32) throw new RangeError("structs are nested too deeply");
    /** @type {Record<number, any>} */
    const fields = {};
    let id = 0;
    for (;;) {
      const head = this.byte();
      if (head === 0) return fields;
      id = head >> 4 ? id + (head >> 4) : this.zigzag();
      const type = head & 15;
      fields[id] = type === 1 ? true : type === 2 ? false : this.value(type, depth);
    }
  }

  /** @param {number} type @param {number} depth @returns {any} */
  value(type, depth) {
    switch (type) {
      case 1: case 2: return this.byte() === 1;
      case 3: return this.byte();
      case 4: case 5: case 6: return this.zigzag();
      case 7: this.at += 8; return null; // a double: nothing here needs one
      case 8: return this.binary();
      case 9: case 10: return this.list(depth);
      case 12: return this.struct(depth + 1);
      default: throw new RangeError(`the type ${type} of Thrift is not known`);
    }
  }

  /** @param {number} depth */
  list(depth) {
    const head = this.byte();
    const size = head >> 4 === 15 ? this.varint() : head >> 4;
    if (size > this.bytes.length - this.at) throw new RangeError("a list is longer than its bytes");
    return Array.from({ length: size }, () => this.value(head & 15, depth + 1));
  }
}
