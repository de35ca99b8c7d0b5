-- Which of VCL's computer rows are slots of ours. A row counts as ours only as long as VCL's has the same id and name.
-- `closed_at` is when it was made too small for everything, which comes before it is removed; `removed_at` when that was.
-- `note` is what we wrote into VCL's notes with a state of ours. `failures` and `failed_at` count what hosts did to it.
-- No reference to VCL's tables: theirs must not keep VCL from deleting a row, and ours must outlive it, to be told.
CREATE TABLE IF NOT EXISTS esxprov_slot (
  computer_id INT UNSIGNED NOT NULL,
  pool        VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  hostname    VARCHAR(64) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL,
  made_by     ENUM('sync', 'adopt') CHARACTER SET ascii NOT NULL DEFAULT 'sync',
  closed_at   DATETIME(6) NULL,
  note        VARCHAR(255) CHARACTER SET utf8mb4 NULL,
  failures    INT UNSIGNED NOT NULL DEFAULT 0,
  failed_at   DATETIME(6) NULL,
  removed_at  DATETIME(6) NULL,
  PRIMARY KEY (computer_id),
  KEY pool (pool)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- What VCL knows a pool's hypervisors by, and (kind 'pool') the host that does not exist, to which idle slots belong.
-- `computer_made` and `vmhost_made` say which of the two rows we made. `ram_mb` and `cpu_threads` are what the host had
-- when it was last seen, so that a silent one still counts.
CREATE TABLE IF NOT EXISTS esxprov_slot_host (
  pool          VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  computer_id   INT UNSIGNED NOT NULL,
  vmhost_id     INT UNSIGNED NOT NULL,
  kind          ENUM('pool', 'host') CHARACTER SET ascii NOT NULL,
  endpoint      VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  uuid          VARCHAR(64) CHARACTER SET ascii NOT NULL DEFAULT '',
  name          VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  ram_mb        BIGINT UNSIGNED NOT NULL DEFAULT 0,
  cpu_threads   INT UNSIGNED NOT NULL DEFAULT 0,
  computer_made TINYINT UNSIGNED NOT NULL DEFAULT 0,
  vmhost_made   TINYINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (pool, vmhost_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- One row per pool: whoever changes its slots holds it. `result` is what the last turn came to, for people.
CREATE TABLE IF NOT EXISTS esxprov_slot_turn (
  pool    VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  turn_at DATETIME(6) NOT NULL DEFAULT '2000-01-01 00:00:00',
  result  MEDIUMTEXT CHARACTER SET utf8mb4 NULL,
  PRIMARY KEY (pool)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
