-- Tables that change with each request are without row ids: each would be two trees of pages.
-- The caller's groups, one after the other, and what the key is for.
ALTER TABLE interceptions ADD COLUMN group_names TEXT NOT NULL DEFAULT '';
ALTER TABLE interceptions ADD COLUMN project TEXT NOT NULL DEFAULT '';
CREATE INDEX interceptions_initiator_id ON interceptions (initiator_id, started_at);

-- What is spent and reserved in each window of each cap, and who is next to begin.
CREATE TABLE cap_tills (
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    period TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    ends_at TEXT NOT NULL,
    name TEXT NOT NULL,
    cap_nano_usd BIGINT NOT NULL,
    spent_nano_usd BIGINT NOT NULL,
    reserved_nano_usd BIGINT NOT NULL,
    running INTEGER NOT NULL,
    next_id TEXT NOT NULL,
    next_until DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (scope, scope_id, period, starts_at)
) WITHOUT ROWID;
CREATE INDEX cap_tills_ends_at ON cap_tills (ends_at);

-- What is reserved by which interception: running, paused between two rounds, or lapsed because
-- its worker is gone. One that has ended has none.
CREATE TABLE cap_holds (
    interception_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    scope_id TEXT NOT NULL,
    period TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    nano_usd BIGINT NOT NULL,
    counted_nano_usd BIGINT NOT NULL,
    state TEXT NOT NULL,
    holder TEXT NOT NULL,
    held_at TEXT NOT NULL,
    PRIMARY KEY (interception_id, scope, scope_id, period, starts_at)
) WITHOUT ROWID;

-- Worker processes that hold reservations; who is there counts on.
CREATE TABLE cap_holders (
    id TEXT NOT NULL PRIMARY KEY,
    beats BIGINT NOT NULL
);
