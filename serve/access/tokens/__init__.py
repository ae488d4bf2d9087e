"""Signed tokens (JWT) of an issuer (OIDC): settings, keys of the issuer, and the check of a token."""
