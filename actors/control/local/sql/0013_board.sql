-- Worker processes of gateways, as they show themselves to consoles. Times in Unix seconds by the database's clock.
CREATE TABLE gateway_workers (
    id TEXT NOT NULL PRIMARY KEY,
    gateway TEXT NOT NULL,
    host TEXT NOT NULL,
    address TEXT NOT NULL,
    pid BIGINT NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL
);

-- What each of them has said of a subject, as JSON, while a console was looking at that.
CREATE TABLE gateway_reports (
    worker_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (worker_id, subject)
);

-- Until when consoles are looking at a subject.
CREATE TABLE console_looks (
    subject TEXT NOT NULL PRIMARY KEY,
    until DOUBLE PRECISION NOT NULL
);

-- What consoles want workers to do, as JSON, and what came of it. Nobody begins with one after its time.
CREATE TABLE console_commands (
    id TEXT NOT NULL PRIMARY KEY,
    worker_id TEXT NOT NULL,
    question TEXT NOT NULL,
    until DOUBLE PRECISION NOT NULL,
    taken INTEGER NOT NULL,
    answer TEXT
);
