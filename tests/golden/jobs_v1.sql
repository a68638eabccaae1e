BEGIN TRANSACTION;
CREATE TABLE events (
	job VARCHAR(26) NOT NULL, 
	seq INTEGER NOT NULL, 
	time DOUBLE NOT NULL, 
	type VARCHAR(32) NOT NULL, 
	payload JSON NOT NULL, 
	PRIMARY KEY (job, seq), 
	FOREIGN KEY(job) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES('000000ygj00000000000000000',1,1001.0,'started','{"runner":"r"}');
INSERT INTO "events" VALUES('000000ygj00000000000000000',2,1002.0,'step_done','{"step":0,"attempt":1,"scalars":[["loss",0.5]]}');
INSERT INTO "events" VALUES('000000ygj00000000000000000',3,1003.0,'step_done','{"step":1,"attempt":1,"scalars":[["loss",0.25]]}');
INSERT INTO "events" VALUES('000000ygj00000000000000000',4,1004.0,'finished','{"attempt":1,"result":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}');
INSERT INTO "events" VALUES('000001x140040g2081040g2081',1,2001.0,'started','{"runner":"r"}');
INSERT INTO "events" VALUES('000001x140040g2081040g2081',2,2002.0,'step_done','{"step":0,"attempt":1,"scalars":[]}');
CREATE TABLE gradfleet_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "gradfleet_schema" VALUES(1);
CREATE TABLE jobs (
	id VARCHAR(26) NOT NULL, 
	owner VARCHAR(128) NOT NULL, 
	name TEXT, 
	"key" TEXT, 
	spec JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	state JSON NOT NULL, 
	result VARCHAR(64), 
	seq INTEGER NOT NULL, 
	created DOUBLE NOT NULL, 
	updated DOUBLE NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT jobs_owner_key UNIQUE (owner, "key")
);
INSERT INTO "jobs" VALUES('000000ygj00000000000000000','','ended','k','{"graph":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","feeds":{"x":{"kind":"array","blob":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","dtype":"float64","shape":[3]}},"fetch":null,"cut":null,"chunk":null,"carry":{},"steps":2,"batch":null,"checkpoint_every":null,"backend":"numpy","reproducible":true,"check_finite":false,"deadline":null,"retries":3,"name":"ended","key":"k"}','succeeded','{"steps":2,"retries":3,"checkpoint_every":null,"status":"succeeded","step":2,"furthest":2,"attempt":1,"failures":0,"retried":0,"restarts":0,"workers_lost":0,"runner":"r","scalars":[["loss",0.25]],"checkpoint":null,"result":"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc","error":null,"started":1001.0,"ended":1004.0}','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',4,1000.0,1004.0);
INSERT INTO "jobs" VALUES('000001x140040g2081040g2081','',NULL,NULL,'{"graph":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","feeds":{},"fetch":null,"cut":null,"chunk":null,"carry":{},"steps":3,"batch":null,"checkpoint_every":null,"backend":"numpy","reproducible":true,"check_finite":false,"deadline":null,"retries":3,"name":null,"key":null}','running','{"steps":3,"retries":3,"checkpoint_every":null,"status":"running","step":1,"furthest":1,"attempt":1,"failures":0,"retried":0,"restarts":0,"workers_lost":0,"runner":"r","scalars":[],"checkpoint":null,"result":null,"error":null,"started":2001.0,"ended":null}',NULL,2,2000.0,2002.0);
CREATE INDEX jobs_owner ON jobs (owner, id);
CREATE INDEX jobs_status ON jobs (status, id);
COMMIT;
