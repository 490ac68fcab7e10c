-- What was recorded, and who may call. Times are RFC 3339 texts in UTC, metadata and inputs JSON.
CREATE TABLE interceptions (
    id TEXT NOT NULL PRIMARY KEY,
    initiator_id TEXT NOT NULL,
    username TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_name TEXT NOT NULL,
    model TEXT NOT NULL,
    client TEXT NOT NULL,
    client_session_id TEXT,
    user_agent TEXT NOT NULL,
    correlating_tool_call_id TEXT,
    credential_kind TEXT NOT NULL,
    credential_hint TEXT NOT NULL,
    metadata TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    error_type TEXT,
    error_message TEXT
);
CREATE INDEX interceptions_started_at ON interceptions (started_at);

CREATE TABLE token_usages (
    interception_id TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_input_tokens BIGINT NOT NULL,
    cache_write_input_tokens BIGINT NOT NULL,
    metadata TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record_id TEXT
);
CREATE UNIQUE INDEX token_usages_once ON token_usages (interception_id, record_id);

CREATE TABLE user_prompts (
    interception_id TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    prompt TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record_id TEXT
);
CREATE UNIQUE INDEX user_prompts_once ON user_prompts (interception_id, record_id);

CREATE TABLE tool_usages (
    interception_id TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    tool_call_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    server_url TEXT,
    tool TEXT NOT NULL,
    input TEXT NOT NULL,
    injected INTEGER NOT NULL,
    invocation_error TEXT,
    metadata TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record_id TEXT
);
CREATE UNIQUE INDEX tool_usages_once ON tool_usages (interception_id, record_id);

CREATE TABLE model_thoughts (
    interception_id TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record_id TEXT
);
CREATE UNIQUE INDEX model_thoughts_once ON model_thoughts (interception_id, record_id);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    secret_sha256 TEXT NOT NULL,
    user_id TEXT NOT NULL,
    username TEXT NOT NULL,
    expires_at TEXT,
    revoked_at TEXT,
    created_at TEXT NOT NULL
);
