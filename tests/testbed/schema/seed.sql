-- What every VCL site finds in a fresh database, with the ids that VCL's programs know by heart.
SET FOREIGN_KEY_CHECKS = 0;

INSERT INTO state (id, name) VALUES
  (1, 'deleted'), (2, 'available'), (3, 'reserved'), (4, 'classreserved'), (5, 'failed'), (6, 'reloading'), (7, 'imageinuse'),
  (8, 'inuse'), (9, 'cleaning'), (10, 'maintenance'), (11, 'timeout'), (12, 'complete'), (13, 'new'), (14, 'pending'),
  (15, 'imageprep'), (16, 'image'), (17, 'makeproduction'), (18, 'tomaintenance'), (19, 'reload'), (20, 'vmhostinuse'),
  (21, 'tovmhostinuse'), (22, 'tohpc'), (23, 'hpc'), (24, 'checkpoint'), (25, 'serverinuse'), (26, 'rebootsoft'),
  (27, 'reinstall'), (28, 'reboothard'), (29, 'servermodified');
INSERT INTO platform (id, name) VALUES (1, 'i386'), (3, 'ultrasparc'), (4, 'i386_lab');
INSERT INTO imagetype (id, name) VALUES
  (1, 'none'), (2, 'partimage'), (3, 'partimage-ng'), (4, 'lab'), (5, 'kickstart'), (6, 'vmdk'), (7, 'qcow2'), (8, 'vdi');
INSERT INTO vmtype (id, name) VALUES
  (1, 'vmware'), (2, 'xen'), (3, 'vmwareGSX'), (4, 'vmwarefreeserver'), (5, 'vmwareESX3'), (6, 'vmwareESXi');
INSERT INTO OStype (id, name) VALUES (1, 'windows'), (2, 'linux'), (3, 'unix'), (4, 'osx');
INSERT INTO OSinstalltype (id, name) VALUES
  (1, 'partimage'), (2, 'kickstart'), (3, 'none'), (4, 'vmware'), (5, 'vbox'), (6, 'openstack');
INSERT INTO variable (name, value, timestamp) VALUES
  ('acknowledgetimeout', '900', NOW()), ('initialconnecttimeout', '900', NOW()), ('reconnecttimeout', '900', NOW()),
  ('general_inuse_check', '300', NOW()), ('server_inuse_check', '900', NOW()), ('general_end_notice_first', '600', NOW()),
  ('general_end_notice_second', '300', NOW()), ('ignore_connections_gte', '1440', NOW());

INSERT INTO affiliation (id, name, dataUpdateText) VALUES (1, 'Local', ''), (2, 'Global', '');
INSERT INTO user (id, unityid, firstname, lastname, email, adminlevelid) VALUES
  (1, 'admin', 'vcl', 'admin', 'root@localhost', 3), (2, 'vclreload', 'vcl', 'reload', '', 1),
  (3, 'vclsystem', 'vcl', 'system', '', 1);
INSERT INTO usergroup (id, name, affiliationid, ownerid, editusergroupid, custom) VALUES
  (3, 'adminUsers', 1, 1, 3, 1), (4, 'manageNewImages', 1, 1, 3, 1);
INSERT INTO usergroupmembers (userid, usergroupid) VALUES (1, 3), (1, 4);
INSERT INTO schedule (id, name, ownerid) VALUES (1, 'VCL 24x7', 1);
INSERT INTO scheduletimes (scheduleid, start, end) VALUES (1, 0, 10080);

INSERT INTO module (id, name, prettyname, description, perlpackage) VALUES
  (1, 'provisioning_xcat', 'Engine: xCAT', '', 'VCL::Module::Provisioning::xCAT'),
  (3, 'provisioning_lab', 'Engine: lab', '', 'VCL::Module::Provisioning::Lab'),
  (4, 'os_windows', 'OS: Windows', '', 'VCL::Module::OS::Windows'),
  (5, 'os_linux', 'OS: Linux', '', 'VCL::Module::OS::Linux'),
  (6, 'os_unix', 'OS: Unix', '', 'VCL::Module::OS'),
  (7, 'os_winvista', 'OS: Windows Vista', '', 'VCL::Module::OS::Windows::Version_6::Vista'),
  (8, 'predictive_level_0', 'Afterwards: the same image', '', 'VCL::Module::Predictive::Level_0'),
  (9, 'predictive_level_1', 'Afterwards: what is asked for most', '', 'VCL::Module::Predictive::Level_1'),
  (12, 'os_winxp', 'OS: Windows XP', '', 'VCL::Module::OS::Windows::Version_5::XP'),
  (13, 'os_win2003', 'OS: Windows 2003', '', 'VCL::Module::OS::Windows::Version_5::2003'),
  (14, 'os_linux_ubuntu', 'OS: Ubuntu', '', 'VCL::Module::OS::Linux::Ubuntu'),
  (15, 'os_unix_lab', 'OS: Unix in labs', '', 'VCL::Module::OS::Linux::UnixLab'),
  (16, 'os_win2008', 'OS: Windows 2008', '', 'VCL::Module::OS::Windows::Version_6::2008'),
  (17, 'os_win7', 'OS: Windows 7', '', 'VCL::Module::OS::Windows::Version_6::7'),
  (21, 'provisioning_vmware', 'Engine: VMware', '', 'VCL::Module::Provisioning::VMware::VMware'),
  (22, 'state_image', 'State: image', '', 'VCL::image'),
  (23, 'base_module', 'Base', '', 'VCL::Module'),
  (24, 'provisioning_vbox', 'Engine: VirtualBox', '', 'VCL::Module::Provisioning::vbox'),
  (25, 'os_esxi', 'OS: ESXi', '', 'VCL::Module::OS::Linux::ESXi'),
  (26, 'os_osx', 'OS: OS X', '', 'VCL::Module::OS::OSX'),
  (27, 'provisioning_libvirt', 'Engine: libvirt', '', 'VCL::Module::Provisioning::libvirt'),
  (28, 'os_linux_managementnode', 'OS: of a management node', '', 'VCL::Module::OS::Linux::ManagementNode'),
  (29, 'os_win8', 'OS: Windows 8', '', 'VCL::Module::OS::Windows::Version_6::8'),
  (30, 'os_win2012', 'OS: Windows 2012', '', 'VCL::Module::OS::Windows::Version_6::2012'),
  (31, 'predictive_level_2', 'Afterwards: unload', '', 'VCL::Module::Predictive::Level_2'),
  (32, 'provisioning_openstack', 'Engine: OpenStack', '', 'VCL::Module::Provisioning::openstack'),
  (33, 'provisioning_one', 'Engine: OpenNebula', '', 'VCL::Module::Provisioning::one'),
  (34, 'os_win10', 'OS: Windows 10', '', 'VCL::Module::OS::Windows::Version_10::10'),
  (35, 'os_win2016', 'OS: Windows 2016', '', 'VCL::Module::OS::Windows::Version_10::2016');
INSERT INTO provisioning (id, name, prettyname, moduleid) VALUES
  (1, 'xcat', 'xCAT', 1), (3, 'lab', 'Lab', 3), (7, 'vmware', 'VMware', 21), (8, 'vbox', 'VirtualBox', 24),
  (9, 'libvirt', 'libvirt', 27), (10, 'none', 'None', 23), (11, 'openstack', 'OpenStack', 32), (12, 'one', 'OpenNebula', 33);
INSERT INTO provisioningOSinstalltype (provisioningid, OSinstalltypeid) VALUES
  (1, 1), (1, 2), (3, 3), (7, 4), (8, 5), (9, 4), (11, 6), (12, 4);

INSERT INTO OS (id, name, prettyname, type, installtype, minram, sourcepath, moduleid) VALUES
  (2, 'sun4x_58', 'Solaris in labs', 'unix', 'none', 512, NULL, 15),
  (16, 'vmwarewinxp', 'XP on VMware', 'windows', 'vmware', 1024, 'vmware_images', 12),
  (21, 'vmwareesxwinxp', 'XP on ESX', 'windows', 'vmware', 1024, 'vmware_images', 12),
  (31, 'vmwarewin2008', '2008 on VMware', 'windows', 'vmware', 2048, 'vmware_images', 16),
  (33, 'vmwarewinvista', 'Vista on VMware', 'windows', 'vmware', 1024, 'vmware_images', 7),
  (35, 'vmwarewin7', '7 on VMware', 'windows', 'vmware', 2048, 'vmware_images', 17),
  (36, 'vmwarelinux', 'Linux on VMware', 'linux', 'vmware', 512, 'vmware_images', 5),
  (37, 'vmwarewin2003', '2003 on VMware', 'windows', 'vmware', 1024, 'vmware_images', 13),
  (39, 'vmwareosx', 'OS X on VMware', 'osx', 'vmware', 512, 'vmware_images', 26),
  (44, 'vmwareubuntu', 'Ubuntu on VMware', 'linux', 'vmware', 512, 'vmware_images', 14),
  (45, 'vmwarewin8', '8 on VMware', 'windows', 'vmware', 2048, 'vmware_images', 29),
  (47, 'vmwarewin2012', '2012 on VMware', 'windows', 'vmware', 2048, 'vmware_images', 30),
  (56, 'vmwarewin10', '10 on VMware', 'windows', 'vmware', 2048, 'vmware_images', 34),
  (58, 'vmwarewin2016', '2016 on VMware', 'windows', 'vmware', 1024, 'vmware_images', 35);
INSERT INTO image (id, name, prettyname, ownerid, OSid, minram, minprocnumber, minnetwork, reloadtime, forcheckout) VALUES
  (1, 'noimage', 'No Image', 1, 2, 0, 1, 10, 0, 0);
INSERT INTO imagerevision (id, imageid, revision, userid, datecreated, deleted, production, imagename) VALUES
  (1, 1, 0, 1, '2000-01-01 00:00:00', 0, 1, 'noimage');

INSERT INTO resourcetype (id, name) VALUES
  (12, 'computer'), (13, 'image'), (15, 'schedule'), (16, 'managementnode'), (17, 'serverprofile'), (18, 'addomain');
INSERT INTO resourcegroup (id, name, ownerusergroupid, resourcetypeid) VALUES
  (1, 'allComputers', 3, 12), (2, 'allImages', 3, 13), (3, 'allManagementNodes', 3, 16), (4, 'allSchedules', 3, 15),
  (5, 'All VM Computers', 3, 12), (8, 'newimages', 3, 12), (9, 'newvmimages', 3, 12), (10, 'allVMimages', 3, 13),
  (11, 'all profiles', 3, 17), (12, 'All AD Domains', 3, 18);
INSERT INTO resourcemap (resourcegroupid1, resourcetypeid1, resourcegroupid2, resourcetypeid2) VALUES
  (2, 13, 1, 12), (10, 13, 5, 12), (3, 16, 1, 12), (3, 16, 8, 12), (3, 16, 5, 12), (3, 16, 9, 12);
INSERT INTO resource (id, resourcetypeid, subid) VALUES (1, 15, 1), (2, 13, 1);
INSERT INTO resourcegroupmembers (resourceid, resourcegroupid) VALUES (1, 4);

-- Who may use what: admins, at VCL/admin. Group 9 has no privilege of its own.
INSERT INTO privnode (id, parent, name) VALUES (1, 1, 'Root'), (3, 1, 'VCL'), (4, 3, 'admin');
INSERT INTO userprivtype (name) VALUES ('block'), ('cascade'), ('nodeAdmin'), ('imageAdmin'), ('imageCheckOut');
INSERT INTO userpriv (usergroupid, privnodeid, userprivtypeid)
  SELECT 3, 3, t.id FROM userprivtype t WHERE t.name IN ('cascade', 'imageAdmin', 'imageCheckOut');
INSERT INTO resourcepriv (resourcegroupid, privnodeid, type) VALUES
  (1, 4, 'available'), (2, 4, 'available'), (4, 4, 'available'), (5, 4, 'available'), (10, 4, 'available'),
  (11, 4, 'available');

INSERT INTO computerloadstate (loadstatename, prettyname, est) VALUES
  ('statuscheck', 'looking at the computer', 10), ('doesimageexists', 'looking for the image', 4),
  ('copyfrompartnerMN', 'fetching the image', NULL), ('startload', 'preparing', 6), ('transfervm', 'copying the disk', 255),
  ('vmsetupconfig', 'writing the VM', 2), ('startvm', 'switching on', 3), ('machinebooted', 'booting', 68),
  ('loadimagecomplete', 'image is loaded', 5), ('nodeready', 'computer is ready', 1), ('addinguser', 'adding the user', 18),
  ('reserved', 'ready to connect', 0), ('bootstate', 'booting', 175), ('loadimageblade', 'loading', NULL),
  ('loadimagevmware', 'loading', NULL), ('loadimagefailed', 'loading failed', NULL), ('imageloadcomplete', 'loaded', NULL),
  ('dynamicDHCPaddress', 'public address', NULL), ('staticIPaddress', 'public address', NULL), ('info', 'note', NULL),
  ('WARNING', 'warning', NULL), ('begin', 'begin', NULL), ('exited', 'exited', NULL), ('failed', 'failed', NULL),
  ('repeat', 'repeat', NULL), ('deleted', 'deleted', NULL), ('timeout', 'timeout', NULL), ('connected', 'connected', NULL),
  ('acknowledgetimeout', 'not acknowledged', NULL), ('noinitialconnection', 'no connection', NULL),
  ('initialconnecttimeout', 'no connection in time', NULL), ('reconnecttimeout', 'no reconnection in time', NULL),
  ('postreserve', 'after reserving', NULL), ('inuseend10', 'ends in 10 minutes', NULL), ('inuseend5', 'ends in 5 minutes', NULL),
  ('vmwareready', NULL, NULL), ('vmconfigcopy', NULL, NULL), ('vmround1', NULL, NULL), ('vmround2', NULL, NULL),
  ('vmstage1', NULL, NULL), ('vmstage2', NULL, NULL), ('vmstage3', NULL, NULL), ('vmstage5', NULL, NULL),
  ('assign2project', NULL, NULL), ('rinstall', NULL, NULL), ('editnodetype', NULL, NULL), ('checklabstatus', NULL, NULL),
  ('xcatstage1', NULL, NULL), ('xcatstage2', NULL, NULL), ('xcatstage3', NULL, NULL), ('xcatstage4', NULL, NULL),
  ('xcatstage5', NULL, NULL), ('xcatround1', NULL, NULL), ('xcatround2', NULL, NULL), ('xcatround3', NULL, NULL),
  ('xcatREADY', NULL, NULL);
-- What the web page draws as the progress of a VM.
INSERT INTO computerloadflow (computerloadstateid, nextstateid, type)
  SELECT one.id, next.id, 'virtualmachine' FROM computerloadstate one LEFT JOIN computerloadstate next ON next.loadstatename =
    ELT(FIELD(one.loadstatename, 'statuscheck', 'doesimageexists', 'copyfrompartnerMN', 'startload', 'transfervm', 'vmsetupconfig',
              'startvm', 'machinebooted', 'loadimagecomplete', 'nodeready', 'addinguser'),
        'doesimageexists', 'copyfrompartnerMN', 'startload', 'transfervm', 'vmsetupconfig', 'startvm',
        'machinebooted', 'loadimagecomplete', 'nodeready', 'addinguser', 'reserved')
  WHERE one.loadstatename IN ('statuscheck', 'doesimageexists', 'copyfrompartnerMN', 'startload', 'transfervm', 'vmsetupconfig',
    'startvm', 'machinebooted', 'loadimagecomplete', 'nodeready', 'addinguser', 'reserved');

INSERT INTO vmprofile (profilename, imageid, resourcepath, datastorepath, virtualswitch0, virtualswitch1, vmdisk) VALUES
  ('VMware ESXi - local storage', 1, NULL, 'datastore1', 'Private', 'Public', 'dedicated'),
  ('VMware ESXi - network storage', 1, NULL, 'nfs-datastore', 'Private', 'Public', 'shared'),
  ('VMware ESXi - local & network storage', 1, NULL, 'nfs-datastore', 'Private', 'Public', 'shared'),
  ('VMware vCenter', 1, '/DC/Cluster', 'nfs-datastore', 'Private', 'Public', 'shared'),
  ('KVM - local storage', 1, NULL, '/var/lib/libvirt/images', 'br0', 'br1', 'dedicated');
