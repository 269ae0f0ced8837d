CREATE TABLE schema (
    version INTEGER NOT NULL
);

CREATE TABLE models (
    name VARCHAR(64) NOT NULL,
    description TEXT NOT NULL,
    created FLOAT(53) NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE version_counters (
    model VARCHAR(64) NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (model)
);

CREATE TABLE tasks (
    id VARCHAR(64) NOT NULL,
    type VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    asynchronous BOOLEAN NOT NULL,
    caller TEXT NOT NULL,
    caller_key TEXT NOT NULL,
    caller_scopes TEXT NOT NULL,
    model VARCHAR(128),
    parameters TEXT NOT NULL,
    result TEXT,
    error TEXT,
    created FLOAT(53) NOT NULL,
    started FLOAT(53),
    finished FLOAT(53),
    lane VARCHAR(32) NOT NULL,
    owner VARCHAR(64),
    attempt INTEGER NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX tasks_by_age ON tasks (created, id);

CREATE INDEX tasks_by_state ON tasks (state);

CREATE TABLE workers (
    id VARCHAR(64) NOT NULL,
    lease_until FLOAT(53) NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE versions (
    model VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL,
    archive_sha256 VARCHAR(64) NOT NULL,
    manifest TEXT,
    error TEXT,
    created FLOAT(53) NOT NULL,
    PRIMARY KEY (model, version),
    UNIQUE (model, archive_sha256),
    FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE
);

CREATE INDEX ix_versions_archive_sha256 ON versions (archive_sha256);

CREATE TABLE version_files (
    model VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    path VARCHAR(255) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (model, version, path),
    FOREIGN KEY(model, version) REFERENCES versions (model, version) ON DELETE CASCADE
);

CREATE INDEX ix_version_files_sha256 ON version_files (sha256);

CREATE TABLE aliases (
    model VARCHAR(64) NOT NULL,
    alias VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (model, alias),
    FOREIGN KEY(model, version) REFERENCES versions (model, version) ON DELETE CASCADE
);

CREATE TABLE deployments (
    id VARCHAR(64) NOT NULL,
    model VARCHAR(64) NOT NULL,
    version INTEGER NOT NULL,
    precision_asked VARCHAR(8) NOT NULL,
    variant VARCHAR(8) NOT NULL,
    state VARCHAR(16) NOT NULL,
    replicas INTEGER NOT NULL,
    traffic_weight INTEGER NOT NULL,
    created FLOAT(53) NOT NULL,
    error TEXT,
    capacity TEXT,
    PRIMARY KEY (id),
    UNIQUE (model, version),
    FOREIGN KEY(model, version) REFERENCES versions (model, version)
);

INSERT INTO schema (version) VALUES (5);
