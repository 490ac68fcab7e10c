-- What of a turn's prompt the provider's cache could have served, and what it did. parts are
-- checksums by which the next turn is compared, keyed with what stands in installation.
CREATE TABLE cache_turns (
    interception_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    began DOUBLE PRECISION NOT NULL,
    model TEXT NOT NULL,
    provider_name TEXT NOT NULL,
    credential_hint TEXT NOT NULL,
    parts BYTEA,
    ttl BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    kept_tokens BIGINT NOT NULL,
    read_tokens BIGINT NOT NULL,
    could_tokens BIGINT NOT NULL,
    lost_tokens BIGINT NOT NULL,
    cause TEXT,
    place INTEGER,
    cost_nano_usd BIGINT
);
CREATE INDEX cache_turns_session ON cache_turns (session_id, user_id, agent_id, began);

-- What this installation has by itself.
CREATE TABLE installation (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO installation VALUES ('prompt_key', replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''));
