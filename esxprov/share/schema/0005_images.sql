-- Who works on an image of a datastore's library: one event at a time. The row holds as long as its event is running,
-- which esxprov_event says; a deletion from the command line has no event, and holds until `held_until`. `path` is the
-- hidden directory it writes, which somebody must remove if nobody finishes it; `needed_mb` is what it writes there.
CREATE TABLE IF NOT EXISTS esxprov_image_work (
  datastore  VARCHAR(80) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  image      VARCHAR(75) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  event_id   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  purpose    ENUM('capture', 'stage', 'delete') CHARACTER SET ascii NOT NULL,
  pool       VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  path       VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  needed_mb  BIGINT NOT NULL DEFAULT 0,
  taken_at   DATETIME(6) NOT NULL,
  held_until DATETIME(6) NULL,
  PRIMARY KEY (datastore, image),
  KEY event (event_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
