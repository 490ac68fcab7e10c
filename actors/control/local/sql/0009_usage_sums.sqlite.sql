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
) WITHOUT ROWID;

-- Of which buckets a record has come, changed or gone since: their sums do not count. Who writes is
-- a part of the key so that nobody waits for another's transaction.
CREATE TABLE usage_changes (
    bucket TEXT NOT NULL,
    writer BIGINT NOT NULL,
    PRIMARY KEY (bucket, writer)
) WITHOUT ROWID;

-- These notes are made by whoever changes records, an older gateway too. What is newer than all buckets,
-- as most new rows are, is known by one look: there is never a day beside its hours.
CREATE TRIGGER usage_start_added AFTER INSERT ON interceptions
    WHEN new.started_at < (SELECT max(bucket) || 'T99' FROM usage_buckets) BEGIN
    INSERT INTO usage_changes SELECT bucket, 0 FROM usage_buckets
        WHERE bucket IN (substr(new.started_at, 1, 13), substr(new.started_at, 1, 10))
        ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_start_deleted AFTER DELETE ON interceptions BEGIN
    INSERT INTO usage_changes SELECT bucket, 0 FROM usage_buckets
        WHERE bucket IN (substr(old.started_at, 1, 13), substr(old.started_at, 1, 10))
        ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_start_changed AFTER UPDATE
    OF started_at, error_type, username, group_names, project, api_key_id, provider_name, model,
    client, repository, branch
    ON interceptions
    WHEN old.started_at IS NOT new.started_at OR old.error_type IS NOT new.error_type OR
      old.username IS NOT new.username OR old.group_names IS NOT new.group_names OR
      old.project IS NOT new.project OR old.api_key_id IS NOT new.api_key_id OR
      old.provider_name IS NOT new.provider_name OR old.model IS NOT new.model OR
      old.client IS NOT new.client OR old.repository IS NOT new.repository OR
      old.branch IS NOT new.branch BEGIN
    INSERT INTO usage_changes SELECT bucket, 0 FROM usage_buckets
        WHERE bucket IN (substr(old.started_at, 1, 13), substr(old.started_at, 1, 10))
        ON CONFLICT DO NOTHING;
    INSERT INTO usage_changes SELECT bucket, 0 FROM usage_buckets
        WHERE bucket IN (substr(new.started_at, 1, 13), substr(new.started_at, 1, 10))
        ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_tokens_added AFTER INSERT ON token_usages
    WHEN (SELECT started_at FROM interceptions WHERE id = new.interception_id)
        < (SELECT max(bucket) || 'T99' FROM usage_buckets) BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = new.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_tokens_deleted AFTER DELETE ON token_usages BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = old.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_tokens_changed AFTER UPDATE
    OF input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens,
    cost_nano_usd
    ON token_usages BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = new.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_prompt_added AFTER INSERT ON user_prompts
    WHEN (SELECT started_at FROM interceptions WHERE id = new.interception_id)
        < (SELECT max(bucket) || 'T99' FROM usage_buckets) BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = new.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_prompt_deleted AFTER DELETE ON user_prompts BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = old.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_tool_added AFTER INSERT ON tool_usages
    WHEN (SELECT started_at FROM interceptions WHERE id = new.interception_id)
        < (SELECT max(bucket) || 'T99' FROM usage_buckets) BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = new.interception_id ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER usage_tool_deleted AFTER DELETE ON tool_usages BEGIN
    INSERT INTO usage_changes SELECT b.bucket, 0 FROM interceptions i CROSS JOIN usage_buckets b
        ON b.bucket IN (substr(i.started_at, 1, 13), substr(i.started_at, 1, 10))
        WHERE i.id = old.interception_id ON CONFLICT DO NOTHING;
END;
