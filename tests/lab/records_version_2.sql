-- run.db of records version 2 as released, with a few rows. Never edit: add a file per version.
PRAGMA application_id = 1279345185;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE claims (
	id VARCHAR NOT NULL, 
	entry INTEGER NOT NULL, 
	text VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	a VARCHAR NOT NULL, 
	b VARCHAR, 
	reading VARCHAR NOT NULL, 
	scope VARCHAR NOT NULL, 
	polarity VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(entry) REFERENCES entries (id)
);
INSERT INTO "claims" VALUES('c1',1,'t','band','x',NULL,'decode','artefact','+','{"layers": [0, 2]}');
CREATE TABLE commands (
	id VARCHAR NOT NULL, 
	verb VARCHAR NOT NULL, 
	arguments JSON NOT NULL, 
	received_at DOUBLE NOT NULL, 
	acknowledged_step INTEGER, 
	changed BOOLEAN, 
	result VARCHAR, 
	PRIMARY KEY (id)
);
CREATE TABLE entries (
	id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	author VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	text VARCHAR NOT NULL, 
	created_at DOUBLE NOT NULL, 
	segment INTEGER, 
	prompt VARCHAR, 
	checkpoint VARCHAR, 
	seed INTEGER, 
	temperature DOUBLE, 
	PRIMARY KEY (id), 
	FOREIGN KEY(segment) REFERENCES segments (id)
);
INSERT INTO "entries" VALUES(1,1,'model','note','It''s early.',1.0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE episodes (
	id INTEGER NOT NULL, 
	segment INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	regime INTEGER, 
	data JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(segment) REFERENCES segments (id), 
	FOREIGN KEY(regime) REFERENCES regimes (id)
);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	text VARCHAR NOT NULL, 
	at DOUBLE NOT NULL, 
	segment INTEGER, 
	step INTEGER, 
	data JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(segment) REFERENCES segments (id)
);
CREATE TABLE findings (
	id INTEGER NOT NULL, 
	segment INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	instrument VARCHAR NOT NULL, 
	rule VARCHAR NOT NULL, 
	version VARCHAR NOT NULL, 
	severity VARCHAR NOT NULL, 
	text VARCHAR NOT NULL, 
	value DOUBLE, 
	lo DOUBLE, 
	hi DOUBLE, 
	evidence JSON NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT severity_is_known CHECK (severity IN ('info', 'watch', 'alert', 'critical')), 
	FOREIGN KEY(segment) REFERENCES segments (id)
);
CREATE TABLE items (
	id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	task VARCHAR NOT NULL, 
	item VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE latches (
	owner VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	since DOUBLE NOT NULL, 
	step INTEGER NOT NULL, 
	severity VARCHAR NOT NULL, 
	PRIMARY KEY (owner), 
	CONSTRAINT severity_is_known CHECK (severity IN ('info', 'watch', 'alert', 'critical'))
);
CREATE TABLE metric_spans (
    name VARCHAR NOT NULL,
    segment INTEGER NOT NULL,
    width INTEGER NOT NULL,
    start INTEGER NOT NULL,
    n INTEGER NOT NULL,
    low DOUBLE,
    low_step INTEGER,
    high DOUBLE,
    high_step INTEGER,
    nan_step INTEGER,
    PRIMARY KEY (name, segment, width, start)
) WITHOUT ROWID;
INSERT INTO "metric_spans" VALUES('train/loss',1,64,512,2,4.25,512,9.0,514,NULL);
INSERT INTO "metric_spans" VALUES('train/loss',1,512,512,2,4.25,512,9.0,514,NULL);
INSERT INTO "metric_spans" VALUES('train/loss',2,64,512,1,4.125,513,4.125,513,NULL);
INSERT INTO "metric_spans" VALUES('train/loss',2,512,512,1,4.125,513,4.125,513,NULL);
CREATE TABLE metrics (
	name VARCHAR NOT NULL, 
	segment INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	value FLOAT, 
	PRIMARY KEY (name, segment, step), 
	FOREIGN KEY(segment) REFERENCES segments (id)
)
 WITHOUT ROWID

;
INSERT INTO "metrics" VALUES('train/loss',1,512,4.25);
INSERT INTO "metrics" VALUES('train/loss',1,514,9.0);
INSERT INTO "metrics" VALUES('train/loss',2,513,4.125);
CREATE TABLE readings (
	task VARCHAR NOT NULL, 
	reading VARCHAR NOT NULL, 
	segment INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	layer INTEGER NOT NULL, 
	regime INTEGER NOT NULL, 
	value FLOAT, 
	lo FLOAT, 
	hi FLOAT, 
	n INTEGER NOT NULL, 
	baseline DOUBLE, 
	PRIMARY KEY (task, reading, segment, step, layer), 
	FOREIGN KEY(segment) REFERENCES segments (id), 
	FOREIGN KEY(regime) REFERENCES regimes (id)
)
 WITHOUT ROWID

;
CREATE TABLE regimes (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	step INTEGER NOT NULL, 
	protocol JSON NOT NULL, 
	hash VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE segments (
	id INTEGER NOT NULL, 
	from_step INTEGER NOT NULL, 
	resumed_from INTEGER, 
	config_hash VARCHAR NOT NULL, 
	started_at DOUBLE NOT NULL, 
	end_step INTEGER, 
	ended_at DOUBLE, 
	reason VARCHAR, 
	PRIMARY KEY (id), 
	CONSTRAINT history_goes_back CHECK (resumed_from < id), 
	FOREIGN KEY(resumed_from) REFERENCES segments (id)
);
INSERT INTO "segments" VALUES(1,0,NULL,'c0ffee',1.0,NULL,NULL,NULL);
INSERT INTO "segments" VALUES(2,512,1,'c0ffee',1.0,NULL,NULL,NULL);
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	claim VARCHAR NOT NULL, 
	step INTEGER NOT NULL, 
	verdict VARCHAR NOT NULL, 
	created_at DOUBLE NOT NULL, 
	data JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(claim) REFERENCES claims (id)
);
CREATE INDEX items_by_task ON items (task, step);
CREATE INDEX episodes_by_step ON episodes (kind, segment, step);
CREATE INDEX findings_by_step ON findings (segment, step);
CREATE TRIGGER metric_spans_of_64 AFTER INSERT ON metrics BEGIN INSERT INTO metric_spans SELECT new.name, new.segment, 64, new.step - new.step % 64, 1, new.value, CASE WHEN new.value IS NOT NULL THEN new.step END, new.value, CASE WHEN new.value IS NOT NULL THEN new.step END, CASE WHEN new.value IS NULL THEN new.step END  WHERE true ON CONFLICT DO UPDATE SET
    n = n + 1,
    low_step = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low_step ELSE low_step END,
    low = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low ELSE low END,
    high_step = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high_step ELSE high_step END,
    high = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high ELSE high END,
    nan_step = coalesce(nan_step, excluded.nan_step); END;
CREATE TRIGGER metric_spans_of_512 AFTER INSERT ON metrics BEGIN INSERT INTO metric_spans SELECT new.name, new.segment, 512, new.step - new.step % 512, 1, new.value, CASE WHEN new.value IS NOT NULL THEN new.step END, new.value, CASE WHEN new.value IS NOT NULL THEN new.step END, CASE WHEN new.value IS NULL THEN new.step END  WHERE true ON CONFLICT DO UPDATE SET
    n = n + 1,
    low_step = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low_step ELSE low_step END,
    low = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low ELSE low END,
    high_step = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high_step ELSE high_step END,
    high = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high ELSE high END,
    nan_step = coalesce(nan_step, excluded.nan_step); END;
COMMIT;
