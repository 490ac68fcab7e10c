-- Checksums of the prompts of requests that have ended, until they are compared. What else that takes stands in
-- interceptions and token_usages.
CREATE TABLE cache_pending (
    interception_id TEXT NOT NULL PRIMARY KEY,
    parts BYTEA NOT NULL
);
