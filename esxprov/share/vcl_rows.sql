-- What VCL's tables need so that vcld loads the shim. May be run again; valid in strict and non-strict SQL mode.
INSERT INTO module (name, prettyname, description, perlpackage)
  SELECT 'provisioning_esxprov', 'ESX (esxprov) Provisioning Module', '', 'VCL::Module::Provisioning::esxprov'
  FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM module WHERE name = 'provisioning_esxprov');
INSERT INTO provisioning (name, prettyname, moduleid)
  SELECT 'esxprov', 'ESX (esxprov)', m.id FROM module m WHERE m.name = 'provisioning_esxprov'
  AND NOT EXISTS (SELECT 1 FROM provisioning WHERE name = 'esxprov');
INSERT INTO provisioningOSinstalltype (provisioningid, OSinstalltypeid)
  SELECT p.id, t.id FROM provisioning p, OSinstalltype t WHERE p.name = 'esxprov' AND t.name = 'vmware'
  AND NOT EXISTS (SELECT 1 FROM provisioningOSinstalltype x WHERE x.provisioningid = p.id AND x.OSinstalltypeid = t.id);
