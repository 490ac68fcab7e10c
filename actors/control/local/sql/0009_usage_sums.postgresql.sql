-- What was used, summed up: of each hour of a day that is not over, and of each day that is. A bucket is
-- the beginning of such a time, 2026-03-01T12 or 2026-03-01. Names are what usage is grouped by.
CREATE TABLE usage_sums (
    bucket TEXT NOT NULL,
    username TEXT NOT NULL,
    group_names TEXT NOT NULL,
    project TEXT NOT NULL,
    api_key_id TEXT NOT NULL,
    provider_name TEXT NOT NULL,
    model TEXT NOT NULL,
    client TEXT NOT NULL,
    repository TEXT NOT NULL,
    branch TEXT NOT NULL,
    interceptions BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read BIGINT NOT NULL,
    cache_write BIGINT NOT NULL,
    prompts BIGINT NOT NULL,
    tool_calls BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    priced BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    unpriced_tokens BIGINT NOT NULL
);
CREATE INDEX usage_sums_bucket ON usage_sums (bucket);

-- The buckets that have sums (rolled is 1) or are being summed up, and who did it or does it.
CREATE TABLE usage_buckets (
    bucket TEXT NOT NULL PRIMARY KEY,
    rolled INTEGER NOT NULL,
    holder TEXT NOT NULL
);

-- Of which buckets a record has come, changed or gone since: their sums do not count. Who writes is
-- a part of the key so that nobody waits for another's transaction.
CREATE TABLE usage_changes (
    bucket TEXT NOT NULL,
    writer BIGINT NOT NULL,
    PRIMARY KEY (bucket, writer)
);

-- These notes are made by whoever changes records, an older gateway too. What takes statements apart
-- sees an end in a semicolon at the end of a line, and takes CREATE TRIGGER for one of SQLite's.
CREATE FUNCTION usage_start_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO usage_changes SELECT bucket, pg_current_xact_id()::text::bigint FROM usage_buckets
            WHERE bucket IN (substr(old.started_at, 1, 13), substr(old.started_at, 1, 10))
            ON CONFLICT DO NOTHING
        ; END IF
    ; IF TG_OP <> 'DELETE' THEN
        INSERT INTO usage_changes SELECT bucket, pg_current_xact_id()::text::bigint FROM usage_buckets
            WHERE bucket IN (substr(new.started_at, 1, 13), substr(new.started_at, 1, 10))
            ON CONFLICT DO NOTHING
        ; END IF
    ; RETURN NULL; END $$;
CREATE FUNCTION usage_record_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO usage_changes SELECT b.bucket, pg_current_xact_id()::text::bigint
            FROM interceptions i JOIN usage_buckets b
            ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
            WHERE i.id = old.interception_id ON CONFLICT DO NOTHING
        ; END IF
    ; IF TG_OP <> 'DELETE' THEN
        INSERT INTO usage_changes SELECT b.bucket, pg_current_xact_id()::text::bigint
            FROM interceptions i JOIN usage_buckets b
            ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
            WHERE i.id = new.interception_id ON CONFLICT DO NOTHING
        ; END IF
    ; RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER usage_start_added AFTER INSERT OR DELETE ON interceptions
    FOR EACH ROW EXECUTE FUNCTION usage_start_changed();
CREATE OR REPLACE TRIGGER usage_start_changed AFTER UPDATE ON interceptions FOR EACH ROW
    WHEN (old.started_at IS DISTINCT FROM new.started_at OR
      old.error_type IS DISTINCT FROM new.error_type OR
      old.username IS DISTINCT FROM new.username OR
      old.group_names IS DISTINCT FROM new.group_names OR
      old.project IS DISTINCT FROM new.project OR
      old.api_key_id IS DISTINCT FROM new.api_key_id OR
      old.provider_name IS DISTINCT FROM new.provider_name OR
      old.model IS DISTINCT FROM new.model OR old.client IS DISTINCT FROM new.client OR
      old.repository IS DISTINCT FROM new.repository OR old.branch IS DISTINCT FROM new.branch)
    EXECUTE FUNCTION usage_start_changed();
CREATE OR REPLACE TRIGGER usage_tokens_changed AFTER INSERT OR DELETE OR UPDATE OF
    input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens,
    cost_nano_usd
    ON token_usages FOR EACH ROW EXECUTE FUNCTION usage_record_changed();
CREATE OR REPLACE TRIGGER usage_prompt_changed AFTER INSERT OR DELETE ON user_prompts
    FOR EACH ROW EXECUTE FUNCTION usage_record_changed();
CREATE OR REPLACE TRIGGER usage_tool_changed AFTER INSERT OR DELETE ON tool_usages
    FOR EACH ROW EXECUTE FUNCTION usage_record_changed();
