-- Checksums of the prompts of requests that have ended, until they are compared. What else that takes stands in
-- interceptions and token_usages. Without row ids: it would be two trees of pages, and each request adds a row.
CREATE TABLE cache_pending (
    interception_id TEXT NOT NULL PRIMARY KEY,
    parts BLOB NOT NULL
) WITHOUT ROWID;
