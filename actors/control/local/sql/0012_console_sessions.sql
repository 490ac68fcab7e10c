-- Who is signed in to the console by an OpenID provider.
CREATE TABLE console_sessions (
    secret_sha256 TEXT NOT NULL PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    group_names TEXT NOT NULL,
    id_token TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
);
CREATE INDEX console_sessions_expires_at ON console_sessions (expires_at);
