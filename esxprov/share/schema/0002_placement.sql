-- One row per pool: whoever decides for the pool holds it, so decisions are made one after the other on fresh claims.
-- Its token grows with every change (a fencing token; and the write makes Galera certify the transaction).
CREATE TABLE IF NOT EXISTS esxprov_domain (
  pool  VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  token BIGINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (pool)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- What is promised on each host: always the sum of its claims; and the most that may be, as the last decision for it saw
-- it. Signed, because a row that somebody changed by hand must not make a release fail (an UNSIGNED one would, below 0).
CREATE TABLE IF NOT EXISTS esxprov_host (
  endpoint        VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  moid            VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  used_ram_mb     BIGINT NOT NULL DEFAULT 0,
  used_cpus       INT NOT NULL DEFAULT 0,
  capacity_ram_mb BIGINT NOT NULL DEFAULT 0,
  capacity_cpus   INT NOT NULL DEFAULT 0,
  PRIMARY KEY (endpoint, moid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- Capacity held for one computer on one host; event_id is the load that made it. A row goes only by an explicit release.
CREATE TABLE IF NOT EXISTS esxprov_claim (
  id          CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  pool        VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  endpoint    VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  moid        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  computer_id INT UNSIGNED NOT NULL,
  event_id    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  ram_mb      INT UNSIGNED NOT NULL,
  cpus        INT UNSIGNED NOT NULL,
  state       ENUM('claimed', 'running', 'to_be_destroyed') CHARACTER SET ascii NOT NULL DEFAULT 'claimed',
  token       BIGINT UNSIGNED NOT NULL,
  claimed_at  DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  KEY pool (pool),
  KEY computer (computer_id),
  KEY event (event_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
