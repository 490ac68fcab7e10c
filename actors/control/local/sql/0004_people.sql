-- Who may call, in which groups, what the policy says, and who changed what.
CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    disabled_at TEXT
);
CREATE INDEX users_name ON users (name);

CREATE TABLE groups (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL
);

CREATE TABLE memberships (
    user_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (user_id, group_id)
);
CREATE INDEX memberships_group_id ON memberships (group_id);

-- A key with a group_id is a machine's: it is of that group and of no user. rules is what the key
-- itself may, JSON as in a policy.
ALTER TABLE api_keys ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN group_id TEXT;
ALTER TABLE api_keys ADD COLUMN project TEXT;
ALTER TABLE api_keys ADD COLUMN rules TEXT;
ALTER TABLE api_keys ADD COLUMN last_used_at TEXT;
CREATE INDEX api_keys_user_id ON api_keys (user_id);
CREATE INDEX api_keys_group_id ON api_keys (group_id);
INSERT INTO users (id, name, created_at)
    SELECT user_id, min(username), min(created_at) FROM api_keys GROUP BY user_id;

-- The newest one holds.
CREATE TABLE policies (
    version BIGINT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at TEXT NOT NULL
);

-- before and after are JSON, null where there was or is nothing.
CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT,
    after TEXT
);
CREATE INDEX audit_at ON audit (at);
