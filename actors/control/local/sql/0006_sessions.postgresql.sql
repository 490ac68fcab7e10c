-- For which work a request was made, as its client says.
ALTER TABLE interceptions ADD COLUMN session_id TEXT;
ALTER TABLE interceptions ADD COLUMN agent_id TEXT;
ALTER TABLE interceptions ADD COLUMN parent_agent_id TEXT;
ALTER TABLE interceptions ADD COLUMN repository TEXT;
ALTER TABLE interceptions ADD COLUMN branch TEXT;
ALTER TABLE interceptions ADD COLUMN commit_hash TEXT;
CREATE INDEX interceptions_session ON interceptions (session_id) WHERE session_id IS NOT NULL;

-- What each session was seen with: a row for each client, model, project, repository and branch.
-- first_at and last_at are when, to the minute.
CREATE TABLE session_parts (
    id TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    username TEXT NOT NULL,
    client TEXT NOT NULL,
    model TEXT NOT NULL,
    project TEXT,
    repository TEXT,
    branch TEXT,
    first_at TEXT NOT NULL,
    last_at TEXT NOT NULL
);
CREATE INDEX session_parts_session ON session_parts (session_id);
CREATE INDEX session_parts_last_at ON session_parts (last_at);

-- What is done by one gateway at a time: who does it, until when (Unix seconds) that is so, and
-- how far it has come.
CREATE TABLE housekeeping (
    task TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    until DOUBLE PRECISION NOT NULL,
    done BIGINT NOT NULL
);

-- Prompts by their words. Of a long one its first 16,384 characters. What is between words is taken
-- out first (chr(63) is a question mark), or a path and an address would be one word each.
CREATE INDEX user_prompts_search ON user_prompts USING gin (to_tsvector('simple', translate(
    left(prompt, 16384), '!"#$%&''()*+,-./:;<=>@[\]^_`{|}~' || chr(63), repeat(' ', 32))));
