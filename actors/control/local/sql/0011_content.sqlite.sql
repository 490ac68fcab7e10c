-- With the content level full: what models answered with.
CREATE TABLE model_answers (
    interception_id TEXT NOT NULL,
    msg_id TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at TEXT NOT NULL,
    record_id TEXT
);
CREATE UNIQUE INDEX model_answers_record ON model_answers (interception_id, record_id);

-- What was sent to models, each part once. interception_id is the request that brought it first,
-- place where it stood in that.
CREATE TABLE content_parts (
    id BLOB NOT NULL PRIMARY KEY,
    interception_id TEXT NOT NULL,
    place BIGINT NOT NULL,
    kind TEXT NOT NULL,
    size BIGINT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX content_parts_interception ON content_parts (interception_id);

-- A prompt is a chain of parts; prompts that begin alike share the beginning. before is the link
-- before it, null in a chain's first.
CREATE TABLE content_links (
    id BLOB NOT NULL PRIMARY KEY,
    before BLOB,
    part BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX content_links_before ON content_links (before);
CREATE INDEX content_links_part ON content_links (part);

-- With which link each request's prompt ends.
CREATE TABLE content_turns (
    interception_id TEXT NOT NULL PRIMARY KEY,
    last BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX content_turns_last ON content_turns (last);

-- Answers by their words, as prompts are.
INSERT INTO housekeeping VALUES ('search answers', '', 0, 0);
CREATE VIEW searched_answers AS
    SELECT rowid AS place, substr(content, 1, 16384) AS content FROM model_answers;
CREATE VIRTUAL TABLE answer_search
    USING fts5(content, content = 'searched_answers', content_rowid = 'place');
CREATE TRIGGER answer_search_forgets AFTER DELETE ON model_answers BEGIN
    INSERT INTO answer_search (answer_search, rowid, content)
        SELECT 'delete', old.rowid, substr(old.content, 1, 16384) FROM housekeeping
        WHERE task = 'search answers' AND done >= old.rowid;
    UPDATE housekeeping SET done = (SELECT coalesce(max(rowid), 0) FROM model_answers)
        WHERE task = 'search answers' AND done > (SELECT coalesce(max(rowid), 0) FROM model_answers);
END;
