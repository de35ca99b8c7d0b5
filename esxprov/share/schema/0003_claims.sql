-- One row, 'all', for the claims of all pools: pools may share hosts, and one order of all changes makes a delta exact:
-- whoever has read up to a token has seen every change up to it, for no later one is committed before it. Every change
-- of capacity takes this row first, and its token grows with each (and the write makes Galera certify the transaction).
ALTER TABLE esxprov_domain
  CHANGE COLUMN IF EXISTS pool name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL;
INSERT INTO esxprov_domain (name, token) SELECT 'all', highest FROM
  (SELECT COALESCE(MAX(token), 0) AS highest FROM esxprov_domain) AS known
  ON DUPLICATE KEY UPDATE token = highest;
DELETE FROM esxprov_domain WHERE name <> 'all';
-- A claim is what it is in esxprov/model.py. `changed` is the token of the row's last change. `leased_until` is how long
-- a claim on its way is held without a sign of life from `owner`. The row of a released claim stays for an hour, so that
-- those who read by delta learn of it, and never counts.
ALTER TABLE esxprov_claim
  CHANGE COLUMN IF EXISTS token changed BIGINT UNSIGNED NOT NULL,
  MODIFY COLUMN state ENUM('claimed', 'running', 'to_be_destroyed', 'foreign', 'lost', 'released')
    CHARACTER SET ascii NOT NULL DEFAULT 'claimed',
  ADD COLUMN IF NOT EXISTS reservation_id INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS claim_group VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS disk_mb BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS datastore VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS ends_at BIGINT NULL,
  ADD COLUMN IF NOT EXISTS owner VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS leased_until DATETIME(6) NULL,
  ADD COLUMN IF NOT EXISTS changed_at DATETIME(6) NULL,
  ADD KEY IF NOT EXISTS changed (changed),
  ADD KEY IF NOT EXISTS age (state, changed_at);
UPDATE esxprov_claim SET leased_until = UTC_TIMESTAMP(6) + INTERVAL 5 MINUTE
  WHERE state = 'claimed' AND leased_until IS NULL;
UPDATE esxprov_claim SET changed_at = claimed_at WHERE changed_at IS NULL;
-- Hosts that failed a power-on, or an image on them: until when nobody chooses them. Image '' means all of them.
CREATE TABLE IF NOT EXISTS esxprov_quarantine (
  endpoint VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  moid     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  image    VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  failures INT UNSIGNED NOT NULL DEFAULT 1,
  reason   VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL,
  until    DATETIME(6) NOT NULL,
  PRIMARY KEY (endpoint, moid, image)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
