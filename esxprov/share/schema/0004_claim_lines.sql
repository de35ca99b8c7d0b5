-- What everybody reads of a claim that was changed, made when it is written: once, and not by each of those who read it
-- while they hold the lock of all others. A JSON array (see claim_rows.py), of a released claim only its id. RTRIM changes
-- nothing, but without it MariaDB fears that a CHAR might be padded.
ALTER TABLE esxprov_claim
  ADD COLUMN IF NOT EXISTS line TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin AS (
    IF(state = 'released', JSON_QUOTE(RTRIM(id)), JSON_ARRAY(
      RTRIM(id), endpoint, moid, computer_id, ram_mb, cpus, event_id, state, pool, reservation_id, claim_group, disk_mb,
      datastore, ends_at))) PERSISTENT;
