-- What token records cost: whole nano-dollars, null where there is no price; the name of the price;
-- and the version of the tables that were asked, null where none was.
ALTER TABLE token_usages ADD COLUMN cost_nano_usd BIGINT;
ALTER TABLE token_usages ADD COLUMN price TEXT;
ALTER TABLE token_usages ADD COLUMN price_table TEXT;
