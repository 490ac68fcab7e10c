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
INSERT INTO housekeeping VALUES ('search', '', 0, 0);

-- Prompts by their words: those up to the row that housekeeping has come to. Of a long one its
-- first 16,384 characters.
CREATE VIEW searched_prompts AS
    SELECT rowid AS place, substr(prompt, 1, 16384) AS prompt FROM user_prompts;
CREATE VIRTUAL TABLE prompt_search
    USING fts5(prompt, content = 'searched_prompts', content_rowid = 'place');
CREATE TRIGGER prompt_search_forgets AFTER DELETE ON user_prompts BEGIN
    INSERT INTO prompt_search (prompt_search, rowid, prompt)
        SELECT 'delete', old.rowid, substr(old.prompt, 1, 16384) FROM housekeeping
        WHERE task = 'search' AND done >= old.rowid;
    UPDATE housekeeping SET done = (SELECT coalesce(max(rowid), 0) FROM user_prompts)
        WHERE task = 'search' AND done > (SELECT coalesce(max(rowid), 0) FROM user_prompts);
END;
