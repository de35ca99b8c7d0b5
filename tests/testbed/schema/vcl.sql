-- The part of VCL's database that provisioning can touch: the names, types, defaults, keys and references that
-- VCL 2.5 documents and its programs rely on, without what only the web front end needs (themes, mail texts).
-- With VCL_SRC set, the test bed loads VCL's own mysql/vcl.sql instead. Valid in strict and non-strict SQL mode: zero
-- dates are real values in VCL. References go in circles (computer, vmhost), hence:
SET FOREIGN_KEY_CHECKS = 0;
SET default_storage_engine = InnoDB;
ALTER DATABASE CHARACTER SET latin1;

-- --- words -----------------------------------------------------------------------------------------------------------

CREATE TABLE state (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(20) NOT NULL DEFAULT '', UNIQUE (name));

CREATE TABLE platform (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(20) NOT NULL DEFAULT '', UNIQUE (name));

CREATE TABLE imagetype (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(16) NOT NULL, UNIQUE (name));

CREATE TABLE vmtype (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(30) NOT NULL, UNIQUE (name));

CREATE TABLE OStype (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(30) NOT NULL, UNIQUE (name));

CREATE TABLE OSinstalltype (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(30) NOT NULL, UNIQUE (name));

CREATE TABLE variable (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(128) NOT NULL, UNIQUE (name),
  serialization ENUM('none', 'yaml', 'phpserialize') NOT NULL DEFAULT 'none',
  value LONGTEXT NOT NULL, setby VARCHAR(128), timestamp DATETIME NOT NULL);

-- --- people ----------------------------------------------------------------------------------------------------------

CREATE TABLE affiliation (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(40) NOT NULL, UNIQUE (name),
  shibname VARCHAR(60), dataUpdateText TEXT NOT NULL, sitewwwaddress VARCHAR(128), helpaddress VARCHAR(32),
  shibonly TINYINT UNSIGNED NOT NULL DEFAULT 0, theme VARCHAR(50));

CREATE TABLE user (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  uid INT UNSIGNED, UNIQUE (uid),
  unityid VARCHAR(80) NOT NULL DEFAULT '',
  affiliationid MEDIUMINT UNSIGNED NOT NULL DEFAULT 1, UNIQUE (unityid, affiliationid),
  firstname VARCHAR(20) NOT NULL DEFAULT '', lastname VARCHAR(25) NOT NULL DEFAULT '', preferredname VARCHAR(25),
  email VARCHAR(80) NOT NULL, emailnotices TINYINT UNSIGNED NOT NULL DEFAULT 1,
  IMtypeid TINYINT UNSIGNED, IMid VARCHAR(80), adminlevelid TINYINT UNSIGNED NOT NULL DEFAULT 1,
  width SMALLINT UNSIGNED NOT NULL DEFAULT 1024, height SMALLINT UNSIGNED NOT NULL DEFAULT 768,
  bpp TINYINT UNSIGNED NOT NULL DEFAULT 16, audiomode ENUM('none', 'local') NOT NULL DEFAULT 'local',
  mapdrives TINYINT UNSIGNED NOT NULL DEFAULT 1, mapprinters TINYINT UNSIGNED NOT NULL DEFAULT 1,
  mapserial TINYINT UNSIGNED NOT NULL DEFAULT 0, rdpport SMALLINT UNSIGNED,
  showallgroups TINYINT UNSIGNED NOT NULL DEFAULT 0, lastupdated DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00',
  validated TINYINT UNSIGNED NOT NULL DEFAULT 1, usepublickeys TINYINT UNSIGNED NOT NULL DEFAULT 0, sshpublickeys TEXT,
  FOREIGN KEY (affiliationid) REFERENCES affiliation (id) ON UPDATE CASCADE);

CREATE TABLE localauth (
  userid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, UNIQUE (userid),
  passhash VARCHAR(40) NOT NULL DEFAULT '', salt VARCHAR(8) NOT NULL DEFAULT '',
  lastupdated DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', lockedout TINYINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE usergroup (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(60) NOT NULL, affiliationid MEDIUMINT UNSIGNED, UNIQUE (name, affiliationid),
  ownerid MEDIUMINT UNSIGNED, editusergroupid SMALLINT UNSIGNED, custom TINYINT UNSIGNED NOT NULL DEFAULT 0,
  courseroll TINYINT UNSIGNED NOT NULL DEFAULT 0, initialmaxtime MEDIUMINT UNSIGNED NOT NULL DEFAULT 240,
  totalmaxtime MEDIUMINT UNSIGNED NOT NULL DEFAULT 360, maxextendtime MEDIUMINT UNSIGNED NOT NULL DEFAULT 60,
  overlapResCount SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (affiliationid) REFERENCES affiliation (id) ON UPDATE CASCADE,
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (editusergroupid) REFERENCES usergroup (id) ON DELETE SET NULL ON UPDATE CASCADE);

CREATE TABLE usergroupmembers (
  userid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, usergroupid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (userid, usergroupid),
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (usergroupid) REFERENCES usergroup (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE schedule (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(25) NOT NULL DEFAULT '', UNIQUE (name), ownerid MEDIUMINT UNSIGNED NOT NULL DEFAULT 1,
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE scheduletimes (
  scheduleid TINYINT UNSIGNED NOT NULL DEFAULT 0,
  start SMALLINT UNSIGNED NOT NULL DEFAULT 0, end SMALLINT UNSIGNED NOT NULL DEFAULT 0, PRIMARY KEY (scheduleid, start, end),
  FOREIGN KEY (scheduleid) REFERENCES schedule (id) ON DELETE CASCADE ON UPDATE CASCADE);

-- --- modules and images ----------------------------------------------------------------------------------------------

CREATE TABLE module (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(30) NOT NULL, UNIQUE (name), prettyname VARCHAR(70) NOT NULL, description VARCHAR(255) NOT NULL,
  perlpackage VARCHAR(150) NOT NULL);

CREATE TABLE provisioning (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(30) NOT NULL, UNIQUE (name), prettyname VARCHAR(70) NOT NULL, moduleid SMALLINT UNSIGNED NOT NULL,
  FOREIGN KEY (moduleid) REFERENCES module (id) ON UPDATE CASCADE);

CREATE TABLE provisioningOSinstalltype (
  provisioningid SMALLINT UNSIGNED NOT NULL, OSinstalltypeid TINYINT UNSIGNED NOT NULL,
  PRIMARY KEY (provisioningid, OSinstalltypeid),
  FOREIGN KEY (provisioningid) REFERENCES provisioning (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (OSinstalltypeid) REFERENCES OSinstalltype (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE OS (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(20) NOT NULL, UNIQUE (name), prettyname VARCHAR(64) NOT NULL DEFAULT '', UNIQUE (prettyname),
  type VARCHAR(30) NOT NULL, installtype VARCHAR(30) NOT NULL DEFAULT 'image',
  minram MEDIUMINT UNSIGNED NOT NULL DEFAULT 512, sourcepath VARCHAR(30), moduleid SMALLINT UNSIGNED,
  FOREIGN KEY (type) REFERENCES OStype (name) ON UPDATE CASCADE,
  FOREIGN KEY (installtype) REFERENCES OSinstalltype (name) ON UPDATE CASCADE,
  FOREIGN KEY (moduleid) REFERENCES module (id) ON UPDATE CASCADE);

CREATE TABLE imagemeta (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  checkuser TINYINT UNSIGNED NOT NULL DEFAULT 1, subimages TINYINT UNSIGNED NOT NULL DEFAULT 0,
  sysprep TINYINT UNSIGNED NOT NULL DEFAULT 1, postoption VARCHAR(32), architecture VARCHAR(10),
  rootaccess TINYINT UNSIGNED NOT NULL DEFAULT 1, sethostname TINYINT UNSIGNED);

CREATE TABLE image (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(70) NOT NULL DEFAULT '', UNIQUE (name), prettyname VARCHAR(80) NOT NULL DEFAULT '', UNIQUE (prettyname),
  ownerid MEDIUMINT UNSIGNED DEFAULT 1, imagetypeid SMALLINT UNSIGNED NOT NULL DEFAULT 1,
  platformid TINYINT UNSIGNED NOT NULL DEFAULT 1, OSid TINYINT UNSIGNED NOT NULL DEFAULT 0,
  imagemetaid SMALLINT UNSIGNED, UNIQUE (imagemetaid),
  minram MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, minprocnumber TINYINT UNSIGNED NOT NULL DEFAULT 0,
  minprocspeed SMALLINT UNSIGNED NOT NULL DEFAULT 0, minnetwork SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  maxconcurrent TINYINT UNSIGNED, reloadtime TINYINT UNSIGNED NOT NULL DEFAULT 10,
  deleted TINYINT UNSIGNED NOT NULL DEFAULT 0, test TINYINT UNSIGNED NOT NULL DEFAULT 0, lastupdate DATETIME,
  forcheckout TINYINT UNSIGNED NOT NULL DEFAULT 1, maxinitialtime MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  project ENUM('vcl', 'hpc', 'vclhpc') NOT NULL DEFAULT 'vcl', size SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  architecture ENUM('x86', 'x86_64') NOT NULL DEFAULT 'x86', description TEXT, `usage` TEXT,
  basedoffrevisionid MEDIUMINT UNSIGNED,
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (imagetypeid) REFERENCES imagetype (id) ON UPDATE CASCADE,
  FOREIGN KEY (platformid) REFERENCES platform (id) ON UPDATE CASCADE,
  FOREIGN KEY (OSid) REFERENCES OS (id) ON UPDATE CASCADE,
  FOREIGN KEY (imagemetaid) REFERENCES imagemeta (id) ON DELETE SET NULL ON UPDATE CASCADE,
  FOREIGN KEY (basedoffrevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE);

CREATE TABLE imagerevision (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  imageid SMALLINT UNSIGNED NOT NULL, revision SMALLINT UNSIGNED NOT NULL, UNIQUE (imageid, revision),
  userid MEDIUMINT UNSIGNED NOT NULL, datecreated DATETIME NOT NULL,
  deleted TINYINT UNSIGNED NOT NULL, datedeleted DATETIME, production TINYINT UNSIGNED NOT NULL, comments TEXT,
  imagename VARCHAR(75) NOT NULL, UNIQUE (production, imagename), autocaptured TINYINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE imagerevisioninfo (
  imagerevisionid MEDIUMINT UNSIGNED PRIMARY KEY,
  usernames VARCHAR(512), firewallenabled VARCHAR(20) NOT NULL, timestamp DATETIME NOT NULL,
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE);

CREATE TABLE subimages (
  imagemetaid SMALLINT UNSIGNED NOT NULL DEFAULT 0, imageid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (imagemetaid) REFERENCES imagemeta (id) ON UPDATE CASCADE,
  FOREIGN KEY (imageid) REFERENCES image (id));

CREATE TABLE connectmethod (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(80) NOT NULL, description VARCHAR(255) NOT NULL, UNIQUE (name, description),
  connecttext TEXT NOT NULL, servicename VARCHAR(32) NOT NULL, startupscript VARCHAR(256));

CREATE TABLE connectmethodmap (
  connectmethodid TINYINT UNSIGNED NOT NULL, OStypeid TINYINT UNSIGNED, OSid TINYINT UNSIGNED,
  imagerevisionid MEDIUMINT UNSIGNED, disabled TINYINT UNSIGNED NOT NULL DEFAULT 0, autoprovisioned TINYINT UNSIGNED,
  UNIQUE (connectmethodid, OStypeid, OSid, imagerevisionid, disabled),
  FOREIGN KEY (connectmethodid) REFERENCES connectmethod (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (OStypeid) REFERENCES OStype (id) ON UPDATE CASCADE,
  FOREIGN KEY (OSid) REFERENCES OS (id) ON UPDATE CASCADE,
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE);

CREATE TABLE connectmethodport (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  connectmethodid TINYINT UNSIGNED NOT NULL, port MEDIUMINT UNSIGNED NOT NULL,
  protocol ENUM('TCP', 'UDP') NOT NULL DEFAULT 'TCP', UNIQUE (connectmethodid, port, protocol),
  FOREIGN KEY (connectmethodid) REFERENCES connectmethod (id) ON DELETE CASCADE ON UPDATE CASCADE);

-- --- computers -------------------------------------------------------------------------------------------------------

CREATE TABLE vmprofile (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  profilename VARCHAR(56) NOT NULL, UNIQUE (profilename), imageid SMALLINT UNSIGNED NOT NULL,
  resourcepath VARCHAR(256), folderpath VARCHAR(256), repositorypath VARCHAR(128),
  repositoryimagetypeid SMALLINT UNSIGNED NOT NULL DEFAULT 1, datastorepath VARCHAR(128) NOT NULL,
  datastoreimagetypeid SMALLINT UNSIGNED NOT NULL DEFAULT 1, vmpath VARCHAR(128),
  virtualswitch0 VARCHAR(80) NOT NULL DEFAULT 'VMnet0', virtualswitch1 VARCHAR(80) NOT NULL DEFAULT 'VMnet2',
  virtualswitch2 VARCHAR(80), virtualswitch3 VARCHAR(80), vmdisk ENUM('dedicated', 'shared') NOT NULL DEFAULT 'dedicated',
  username VARCHAR(80), password VARCHAR(256), secretid SMALLINT UNSIGNED,
  eth0generated TINYINT UNSIGNED NOT NULL DEFAULT 0, eth1generated TINYINT UNSIGNED NOT NULL DEFAULT 0,
  rsapub TEXT, rsakey VARCHAR(256), encryptedpasswd TEXT,
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (repositoryimagetypeid) REFERENCES imagetype (id) ON UPDATE CASCADE,
  FOREIGN KEY (datastoreimagetypeid) REFERENCES imagetype (id) ON UPDATE CASCADE);

CREATE TABLE vmhost (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  computerid SMALLINT UNSIGNED NOT NULL, vmprofileid SMALLINT UNSIGNED NOT NULL, UNIQUE (computerid, vmprofileid),
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (vmprofileid) REFERENCES vmprofile (id) ON UPDATE CASCADE);

CREATE TABLE computer (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  stateid TINYINT UNSIGNED NOT NULL DEFAULT 10, ownerid MEDIUMINT UNSIGNED DEFAULT 1,
  platformid TINYINT UNSIGNED NOT NULL DEFAULT 1, scheduleid TINYINT UNSIGNED, vmhostid SMALLINT UNSIGNED,
  currentimageid SMALLINT UNSIGNED NOT NULL DEFAULT 1, nextimageid SMALLINT UNSIGNED NOT NULL DEFAULT 1,
  imagerevisionid MEDIUMINT UNSIGNED NOT NULL DEFAULT 1, RAM MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  procnumber TINYINT UNSIGNED NOT NULL DEFAULT 1, procspeed SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  network SMALLINT UNSIGNED NOT NULL DEFAULT 100, hostname VARCHAR(36) NOT NULL DEFAULT '',
  IPaddress VARCHAR(15) NOT NULL DEFAULT '', privateIPaddress VARCHAR(15),
  eth0macaddress VARCHAR(17), eth1macaddress VARCHAR(17),
  type ENUM('blade', 'lab', 'virtualmachine') NOT NULL DEFAULT 'blade', provisioningid SMALLINT UNSIGNED NOT NULL,
  drivetype VARCHAR(4) NOT NULL DEFAULT 'hda', deleted TINYINT UNSIGNED NOT NULL DEFAULT 0,
  datedeleted DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', notes TEXT, lastcheck DATETIME, location VARCHAR(255),
  dsa MEDIUMTEXT, dsapub MEDIUMTEXT, rsa MEDIUMTEXT, rsapub MEDIUMTEXT, host BLOB, hostpub MEDIUMTEXT,
  vmtypeid TINYINT UNSIGNED, predictivemoduleid SMALLINT UNSIGNED NOT NULL DEFAULT 9,
  UNIQUE (hostname, datedeleted), UNIQUE (eth0macaddress, datedeleted), UNIQUE (eth1macaddress, datedeleted),
  FOREIGN KEY (stateid) REFERENCES state (id) ON UPDATE CASCADE,
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (platformid) REFERENCES platform (id) ON UPDATE CASCADE,
  FOREIGN KEY (scheduleid) REFERENCES schedule (id) ON DELETE SET NULL ON UPDATE CASCADE,
  FOREIGN KEY (vmhostid) REFERENCES vmhost (id) ON DELETE SET NULL ON UPDATE CASCADE,
  FOREIGN KEY (currentimageid) REFERENCES image (id),
  FOREIGN KEY (nextimageid) REFERENCES image (id),
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE,
  FOREIGN KEY (provisioningid) REFERENCES provisioning (id) ON UPDATE CASCADE,
  FOREIGN KEY (predictivemoduleid) REFERENCES module (id) ON UPDATE CASCADE);

CREATE TABLE managementnode (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  IPaddress VARCHAR(15) NOT NULL DEFAULT '', hostname VARCHAR(50) NOT NULL DEFAULT '', UNIQUE (hostname),
  ownerid MEDIUMINT UNSIGNED NOT NULL DEFAULT 1, stateid TINYINT UNSIGNED NOT NULL DEFAULT 0,
  lastcheckin TIMESTAMP NOT NULL DEFAULT '0000-00-00 00:00:00', checkininterval TINYINT UNSIGNED NOT NULL DEFAULT 12,
  installpath VARCHAR(100) NOT NULL DEFAULT '/install', imagelibenable TINYINT UNSIGNED NOT NULL DEFAULT 0,
  imagelibgroupid SMALLINT UNSIGNED, imagelibuser VARCHAR(20) DEFAULT 'vclstaff',
  imagelibkey VARCHAR(100) DEFAULT '/etc/vcl/imagelib.key', `keys` VARCHAR(1024),
  sshport SMALLINT UNSIGNED NOT NULL DEFAULT 22,
  publicIPconfiguration ENUM('dynamicDHCP', 'manualDHCP', 'static') NOT NULL DEFAULT 'dynamicDHCP',
  publicSubnetMask VARCHAR(56), publicDefaultGateway VARCHAR(56), publicDNSserver VARCHAR(56),
  sysadminEmailAddress VARCHAR(128), sharedMailBox VARCHAR(128), NOT_STANDALONE VARCHAR(128),
  availablenetworks TEXT NOT NULL,
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (stateid) REFERENCES state (id) ON UPDATE CASCADE,
  FOREIGN KEY (imagelibgroupid) REFERENCES resourcegroup (id) ON DELETE SET NULL ON UPDATE CASCADE);

CREATE TABLE cryptkey (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  hostid SMALLINT UNSIGNED NOT NULL, hosttype ENUM('managementnode', 'web') NOT NULL DEFAULT 'managementnode',
  UNIQUE (hostid, hosttype), pubkey VARCHAR(1000) NOT NULL, algorithm VARCHAR(80) NOT NULL,
  algorithmoption VARCHAR(255) NOT NULL, keylength SMALLINT UNSIGNED NOT NULL);

CREATE TABLE cryptsecret (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  cryptkeyid SMALLINT UNSIGNED NOT NULL, secretid SMALLINT UNSIGNED NOT NULL, UNIQUE (cryptkeyid, secretid),
  cryptsecret VARCHAR(1000) NOT NULL, algorithm VARCHAR(80) NOT NULL, algorithmoption VARCHAR(255) NOT NULL,
  keylength SMALLINT UNSIGNED NOT NULL,
  FOREIGN KEY (cryptkeyid) REFERENCES cryptkey (id) ON DELETE CASCADE);

CREATE TABLE openstackcomputermap (
  instanceid VARCHAR(50) PRIMARY KEY, computerid SMALLINT UNSIGNED,
  FOREIGN KEY (computerid) REFERENCES computer (id));

CREATE TABLE openstackimagerevision (
  imagerevisionid MEDIUMINT UNSIGNED PRIMARY KEY, imagedetails TEXT NOT NULL, flavordetails TEXT NOT NULL,
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE);

-- --- resources -------------------------------------------------------------------------------------------------------

CREATE TABLE resourcetype (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(50) NOT NULL DEFAULT '', UNIQUE (name));

CREATE TABLE resource (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  resourcetypeid TINYINT UNSIGNED NOT NULL DEFAULT 0, subid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  UNIQUE (resourcetypeid, subid),
  FOREIGN KEY (resourcetypeid) REFERENCES resourcetype (id) ON UPDATE CASCADE);

CREATE TABLE resourcegroup (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(60) NOT NULL DEFAULT '', ownerusergroupid SMALLINT UNSIGNED NOT NULL DEFAULT 39,
  resourcetypeid TINYINT UNSIGNED NOT NULL DEFAULT 0, UNIQUE (resourcetypeid, name),
  FOREIGN KEY (ownerusergroupid) REFERENCES usergroup (id) ON UPDATE CASCADE,
  FOREIGN KEY (resourcetypeid) REFERENCES resourcetype (id) ON UPDATE CASCADE);

CREATE TABLE resourcegroupmembers (
  resourceid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, resourcegroupid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (resourceid, resourcegroupid),
  FOREIGN KEY (resourceid) REFERENCES resource (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (resourcegroupid) REFERENCES resourcegroup (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE resourcemap (
  resourcegroupid1 SMALLINT UNSIGNED NOT NULL DEFAULT 0, resourcetypeid1 TINYINT UNSIGNED NOT NULL DEFAULT 13,
  resourcegroupid2 SMALLINT UNSIGNED NOT NULL DEFAULT 0, resourcetypeid2 TINYINT UNSIGNED NOT NULL DEFAULT 12,
  PRIMARY KEY (resourcegroupid1, resourcegroupid2),
  FOREIGN KEY (resourcegroupid1) REFERENCES resourcegroup (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (resourcetypeid1) REFERENCES resourcetype (id) ON UPDATE CASCADE,
  FOREIGN KEY (resourcegroupid2) REFERENCES resourcegroup (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (resourcetypeid2) REFERENCES resourcetype (id) ON UPDATE CASCADE);

CREATE TABLE privnode (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  parent MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, name VARCHAR(50) NOT NULL DEFAULT '', UNIQUE (parent, name));

CREATE TABLE userprivtype (
  id TINYINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(50) NOT NULL DEFAULT '', UNIQUE (name));

CREATE TABLE userpriv (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  userid MEDIUMINT UNSIGNED, usergroupid SMALLINT UNSIGNED, privnodeid MEDIUMINT UNSIGNED NOT NULL,
  userprivtypeid TINYINT UNSIGNED NOT NULL,
  FOREIGN KEY (userid) REFERENCES user (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (usergroupid) REFERENCES usergroup (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (privnodeid) REFERENCES privnode (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (userprivtypeid) REFERENCES userprivtype (id) ON UPDATE CASCADE);

CREATE TABLE resourcepriv (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  resourcegroupid SMALLINT UNSIGNED NOT NULL, privnodeid MEDIUMINT UNSIGNED NOT NULL,
  type ENUM('block', 'cascade', 'available', 'administer', 'manageGroup', 'manageMapping') NOT NULL,
  UNIQUE (resourcegroupid, privnodeid, type),
  FOREIGN KEY (resourcegroupid) REFERENCES resourcegroup (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (privnodeid) REFERENCES privnode (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE nathost (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  resourceid MEDIUMINT UNSIGNED NOT NULL, UNIQUE (resourceid), publicIPaddress VARCHAR(15) NOT NULL,
  internalIPaddress VARCHAR(15),
  FOREIGN KEY (resourceid) REFERENCES resource (id) ON UPDATE CASCADE);

CREATE TABLE nathostcomputermap (
  nathostid SMALLINT UNSIGNED NOT NULL, computerid SMALLINT UNSIGNED NOT NULL, PRIMARY KEY (nathostid, computerid),
  FOREIGN KEY (nathostid) REFERENCES nathost (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id));

-- --- requests --------------------------------------------------------------------------------------------------------

CREATE TABLE log (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  userid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, nowfuture ENUM('now', 'future') NOT NULL DEFAULT 'now',
  start DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', loaded DATETIME,
  initialend DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', finalend DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00',
  wasavailable TINYINT UNSIGNED NOT NULL DEFAULT 0,
  ending ENUM('deleted', 'released', 'failed', 'failedtest', 'noack', 'nologin', 'timeout', 'EOR', 'none')
    NOT NULL DEFAULT 'none',
  requestid MEDIUMINT UNSIGNED, computerid SMALLINT UNSIGNED, remoteIP VARCHAR(15),
  imageid SMALLINT UNSIGNED NOT NULL DEFAULT 0, size SMALLINT UNSIGNED NOT NULL DEFAULT 1450,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (imageid) REFERENCES image (id));

CREATE TABLE request (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  stateid TINYINT UNSIGNED NOT NULL DEFAULT 0, userid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  laststateid TINYINT UNSIGNED NOT NULL DEFAULT 0, logid INT UNSIGNED, forimaging TINYINT UNSIGNED NOT NULL DEFAULT 0,
  test TINYINT UNSIGNED NOT NULL DEFAULT 0, preload TINYINT UNSIGNED NOT NULL DEFAULT 0,
  start DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', end DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00',
  daterequested DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', datemodified DATETIME,
  checkuser TINYINT UNSIGNED NOT NULL DEFAULT 1,
  FOREIGN KEY (stateid) REFERENCES state (id) ON UPDATE CASCADE,
  FOREIGN KEY (laststateid) REFERENCES state (id) ON UPDATE CASCADE,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (logid) REFERENCES log (id) ON UPDATE CASCADE);

CREATE TABLE reservation (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  requestid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, computerid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  imageid SMALLINT UNSIGNED NOT NULL DEFAULT 0, imagerevisionid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  managementnodeid SMALLINT UNSIGNED NOT NULL DEFAULT 1, remoteIP VARCHAR(15),
  lastcheck DATETIME DEFAULT '0000-00-00 00:00:00', pw VARCHAR(40), connectIP VARCHAR(15), connectport SMALLINT UNSIGNED,
  FOREIGN KEY (requestid) REFERENCES request (id) ON DELETE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE,
  FOREIGN KEY (managementnodeid) REFERENCES managementnode (id));

CREATE TABLE reservationaccounts (
  reservationid MEDIUMINT UNSIGNED NOT NULL, userid MEDIUMINT UNSIGNED NOT NULL, password VARCHAR(50),
  PRIMARY KEY (reservationid, userid),
  FOREIGN KEY (reservationid) REFERENCES reservation (id) ON DELETE CASCADE,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE natport (
  reservationid MEDIUMINT UNSIGNED NOT NULL, nathostid SMALLINT UNSIGNED NOT NULL, publicport SMALLINT UNSIGNED NOT NULL,
  connectmethodportid TINYINT UNSIGNED NOT NULL, UNIQUE (reservationid, connectmethodportid), UNIQUE (nathostid, publicport),
  FOREIGN KEY (reservationid) REFERENCES reservation (id) ON DELETE CASCADE,
  FOREIGN KEY (nathostid) REFERENCES nathost (id) ON UPDATE CASCADE,
  FOREIGN KEY (connectmethodportid) REFERENCES connectmethodport (id) ON UPDATE CASCADE);

CREATE TABLE blockRequest (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(80) NOT NULL, imageid SMALLINT UNSIGNED NOT NULL, numMachines TINYINT UNSIGNED NOT NULL,
  groupid SMALLINT UNSIGNED, repeating ENUM('weekly', 'monthly', 'list') NOT NULL DEFAULT 'weekly',
  ownerid MEDIUMINT UNSIGNED NOT NULL, managementnodeid SMALLINT UNSIGNED, expireTime DATETIME NOT NULL,
  processing TINYINT UNSIGNED NOT NULL,
  status ENUM('requested', 'accepted', 'completed', 'rejected', 'deleted') NOT NULL DEFAULT 'accepted', comments TEXT,
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE blockTimes (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  blockRequestid MEDIUMINT UNSIGNED NOT NULL, start DATETIME NOT NULL, end DATETIME NOT NULL,
  processed TINYINT UNSIGNED NOT NULL DEFAULT 0, skip TINYINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (blockRequestid) REFERENCES blockRequest (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE blockComputers (
  blockTimeid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0, computerid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  imageid SMALLINT UNSIGNED NOT NULL DEFAULT 0, reloadrequestid MEDIUMINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (blockTimeid, computerid),
  FOREIGN KEY (blockTimeid) REFERENCES blockTimes (id) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (imageid) REFERENCES image (id));

CREATE TABLE sublog (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  logid INT UNSIGNED NOT NULL DEFAULT 0, imageid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  imagerevisionid MEDIUMINT UNSIGNED NOT NULL, computerid SMALLINT UNSIGNED NOT NULL DEFAULT 0, IPaddress VARCHAR(15),
  managementnodeid SMALLINT UNSIGNED NOT NULL DEFAULT 0, predictivemoduleid SMALLINT UNSIGNED NOT NULL DEFAULT 8,
  hostcomputerid SMALLINT UNSIGNED, blockRequestid MEDIUMINT UNSIGNED, blockStart DATETIME, blockEnd DATETIME,
  FOREIGN KEY (logid) REFERENCES log (id) ON UPDATE CASCADE,
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (managementnodeid) REFERENCES managementnode (id),
  FOREIGN KEY (predictivemoduleid) REFERENCES module (id) ON UPDATE CASCADE,
  FOREIGN KEY (hostcomputerid) REFERENCES computer (id),
  FOREIGN KEY (blockRequestid) REFERENCES blockRequest (id) ON UPDATE CASCADE);

CREATE TABLE changelog (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  logid INT UNSIGNED NOT NULL DEFAULT 0, userid MEDIUMINT UNSIGNED, reservationid MEDIUMINT UNSIGNED,
  start DATETIME, end DATETIME, computerid SMALLINT UNSIGNED, remoteIP VARCHAR(15), wasavailable TINYINT UNSIGNED,
  timestamp DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00', other VARCHAR(255),
  FOREIGN KEY (logid) REFERENCES log (id) ON UPDATE CASCADE,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id));

CREATE TABLE connectlog (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  logid INT UNSIGNED NOT NULL, reservationid MEDIUMINT UNSIGNED NOT NULL, userid MEDIUMINT UNSIGNED,
  remoteIP VARCHAR(39) NOT NULL, verified TINYINT NOT NULL, timestamp DATETIME NOT NULL DEFAULT '0000-00-00 00:00:00',
  FOREIGN KEY (logid) REFERENCES log (id) ON UPDATE CASCADE,
  FOREIGN KEY (userid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE computerloadstate (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  loadstatename VARCHAR(24) NOT NULL, UNIQUE (loadstatename), prettyname VARCHAR(50), est TINYINT UNSIGNED);

CREATE TABLE computerloadflow (
  computerloadstateid SMALLINT UNSIGNED NOT NULL, nextstateid SMALLINT UNSIGNED,
  type ENUM('blade', 'lab', 'virtualmachine'),
  FOREIGN KEY (computerloadstateid) REFERENCES computerloadstate (id) ON UPDATE CASCADE,
  FOREIGN KEY (nextstateid) REFERENCES computerloadstate (id) ON UPDATE CASCADE);

CREATE TABLE computerloadlog (
  id INT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  reservationid MEDIUMINT UNSIGNED NOT NULL, computerid SMALLINT UNSIGNED NOT NULL,
  loadstateid SMALLINT UNSIGNED NOT NULL, timestamp DATETIME, additionalinfo TEXT,
  FOREIGN KEY (reservationid) REFERENCES reservation (id) ON DELETE CASCADE,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (loadstateid) REFERENCES computerloadstate (id) ON UPDATE CASCADE);

CREATE TABLE semaphore (
  computerid SMALLINT UNSIGNED NOT NULL, imageid SMALLINT UNSIGNED NOT NULL, imagerevisionid MEDIUMINT UNSIGNED NOT NULL,
  managementnodeid SMALLINT UNSIGNED NOT NULL,
  expires TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, procid VARCHAR(255) NOT NULL,
  FOREIGN KEY (computerid) REFERENCES computer (id),
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (imagerevisionid) REFERENCES imagerevision (id) ON UPDATE CASCADE,
  FOREIGN KEY (managementnodeid) REFERENCES managementnode (id));

CREATE TABLE vcldsemaphore (
  identifier VARCHAR(256) PRIMARY KEY, reservationid MEDIUMINT UNSIGNED NOT NULL, pid MEDIUMINT UNSIGNED NOT NULL,
  expires DATETIME NOT NULL,
  FOREIGN KEY (reservationid) REFERENCES reservation (id) ON DELETE CASCADE ON UPDATE CASCADE);

CREATE TABLE serverprofile (
  id SMALLINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(255) NOT NULL, UNIQUE (name), description TEXT NOT NULL, imageid SMALLINT UNSIGNED NOT NULL,
  ownerid MEDIUMINT UNSIGNED NOT NULL, ending ENUM('specified', 'indefinite') NOT NULL DEFAULT 'specified',
  fixedIP VARCHAR(15), fixedMAC VARCHAR(17), admingroupid SMALLINT UNSIGNED, logingroupid SMALLINT UNSIGNED,
  monitored TINYINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (imageid) REFERENCES image (id),
  FOREIGN KEY (ownerid) REFERENCES user (id) ON UPDATE CASCADE);

CREATE TABLE serverrequest (
  id MEDIUMINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(255) NOT NULL, serverprofileid SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  requestid MEDIUMINT UNSIGNED NOT NULL, UNIQUE (requestid), fixedIP VARCHAR(15), fixedMAC VARCHAR(17),
  admingroupid SMALLINT UNSIGNED, logingroupid SMALLINT UNSIGNED, monitored TINYINT UNSIGNED NOT NULL DEFAULT 0,
  FOREIGN KEY (requestid) REFERENCES request (id) ON DELETE CASCADE,
  FOREIGN KEY (admingroupid) REFERENCES usergroup (id) ON UPDATE CASCADE,
  FOREIGN KEY (logingroupid) REFERENCES usergroup (id) ON UPDATE CASCADE);
