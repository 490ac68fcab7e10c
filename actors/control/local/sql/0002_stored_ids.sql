-- Whose are the answers and conversations that providers keep.
CREATE TABLE stored_ids (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    used_at TEXT NOT NULL
);
CREATE INDEX stored_ids_used_at ON stored_ids (used_at);
