package storage

import "errors"

var (
	// ErrLogNotFound: no such entry or value.
	ErrLogNotFound = errors.New("not found in the log database")
	// ErrLogDestroyed: this generation was destroyed and is never opened again.
	ErrLogDestroyed = errors.New("this replica generation was destroyed")
	// ErrLogInUse: another process, or this one, has the directory open.
	ErrLogInUse = errors.New("the log database is in use by another process")
	// ErrLogNewerFormat: written by a newer version than this one.
	ErrLogNewerFormat = errors.New("the log database has a newer format than this version knows")
	// ErrLogOtherNode: the database belongs to another node.
	ErrLogOtherNode = errors.New("the log database belongs to another node")
	// ErrLogMissing: [LogOptions].MustExist was set and there is no database.
	ErrLogMissing = errors.New("the log database is missing or empty")
	// ErrLogCorrupt: a record can not be what was written.
	ErrLogCorrupt = errors.New("the log database is corrupt")
	// ErrLogExists: a bootstrap of a replica that has entries already.
	ErrLogExists = errors.New("the replica has log entries already")
	// ErrLogOrder: the caller's entries or range would leave a hole in the log,
	// or begin below what was cut off. Nothing was changed.
	ErrLogOrder = errors.New("log entries out of order")
	// ErrLogClosed: the database was closed.
	ErrLogClosed = errors.New("the log database is closed")
	// ErrLogFailed: a write failed and its fate is unknown; the database takes
	// no more calls. Close it and end the process, or open it anew.
	ErrLogFailed = errors.New("the log database failed")
)
