// Calls of the HttpClient that every JDK since 11 has, with its defaults: it offers HTTP/2 by an upgrade of each request.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class Calls {
    static final HttpClient DEFAULT = HttpClient.newHttpClient();
    static final HttpClient HTTP_1_1 = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    public static void main(String[] arguments) throws Exception {
        // The JDK has no parser of JSON: the arrays of texts are passed on as they are.
        String texts = array(arguments[1], "texts");
        String documents = array(arguments[1], "documents");
        String query = field(arguments[1], "query");
        String embed = "{\"model\": \"minilm\", \"encoding_format\": \"float\", \"input\": " + texts + "}";
        String rank = "{\"model\": \"reranker\", \"query\": " + query + ", \"documents\": " + documents + "}";

        List<String> made = new ArrayList<>();
        made.add(call("HttpClient: POST /v1/embeddings", "vectors", DEFAULT, "/v1/embeddings", embed));
        made.add(call("HttpClient, HTTP_1_1: POST /v1/embeddings", "vectors", HTTP_1_1, "/v1/embeddings", embed));
        made.add(call("HttpClient: POST /v1/rerank", "ranking", DEFAULT, "/v1/rerank", rank));
        made.add(call("HttpClient, HTTP_1_1: POST /v1/rerank", "ranking", HTTP_1_1, "/v1/rerank", rank));
        Files.writeString(Path.of(arguments[0]), "[" + String.join(",", made) + "]");
    }

    // Return the call as harness.py describes it.
    static String call(String name, String expected, HttpClient client, String path, String body) {
        String head = "{\"name\": " + quoted(name) + ", \"expected\": " + quoted(expected);
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create("http://localhost:8080" + path))
                .header("Content-Type", "application/json")
                .header("Authorization", "Bearer none")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                return head + ", \"error\": " + quoted(response.statusCode() + " " + response.body()) + "}";
            }
            String value = expected.equals("vectors") ? vectors(response.body()) : ranking(response.body());
            return head + ", \"value\": " + value + "}";
        } catch (Exception error) {
            return head + ", \"error\": " + quoted(error.toString()) + "}";
        }
    }

    static String vectors(String body) {
        return all(body, Pattern.compile("\"embedding\":\\s*(\\[[^\\]]*\\])"));
    }

    static String ranking(String body) {
        String results = body.substring(body.indexOf("\"results\""), body.indexOf("\"meta\""));
        String pattern = "\"index\":\\s*(\\d+),\\s*\"relevance_score\":\\s*([-+.eE0-9]+)";
        List<String> pairs = new ArrayList<>();
        for (Matcher match = Pattern.compile(pattern).matcher(results); match.find();) {
            pairs.add("[" + match.group(1) + ", " + match.group(2) + "]");
        }
        return pairs.toString();
    }

    static String all(String text, Pattern pattern) {
        List<String> found = new ArrayList<>();
        for (Matcher match = pattern.matcher(text); match.find();) {
            found.add(match.group(1));
        }
        return found.toString();
    }

    // Return the array of a field, as text. No text of the test has a square bracket.
    static String array(String json, String name) {
        int start = json.indexOf('[', json.indexOf("\"" + name + "\""));
        return json.substring(start, json.indexOf(']', start) + 1);
    }

    // Return the text of a field with its quotation marks. No query of the test has one.
    static String field(String json, String name) {
        int start = json.indexOf('"', json.indexOf(':', json.indexOf("\"" + name + "\"")));
        return json.substring(start, json.indexOf('"', start + 1) + 1);
    }

    static String quoted(String text) {
        String escaped = text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n").replace("\r", "\\r");
        return "\"" + escaped + "\"";
    }
}
