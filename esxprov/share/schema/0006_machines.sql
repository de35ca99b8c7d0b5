-- What a host that boots from the network does not remember. Hosts go by the uuid of their hardware: endpoint and moid are
-- where it was seen last, booted_at its last boot that was seen (noticed_at: when), recovered_boot the one after which all
-- its VMs were put right.
CREATE TABLE IF NOT EXISTS esxprov_host_seen (
  uuid           VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  endpoint       VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  moid           VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  booted_at      DATETIME(6) NOT NULL,
  noticed_at     DATETIME(6) NOT NULL,
  recovered_boot DATETIME(6) NULL,
  PRIMARY KEY (uuid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
-- The VM of a claim. armed_at: its address is waited for, since then. The row outlives its claim for a while.
CREATE TABLE IF NOT EXISTS esxprov_machine (
  claim_id    CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  computer_id INT UNSIGNED NOT NULL,
  vmx_path    VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  power       ENUM('on', 'off') CHARACTER SET ascii NOT NULL,
  armed_at    DOUBLE NULL,
  PRIMARY KEY (claim_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
