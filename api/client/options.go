package client

import (
	"context"
	"net"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

const (
	// DefaultEndpoint is where a node listens unless told otherwise.
	DefaultEndpoint = "http://127.0.0.1:7820"
	// DefaultTimeout bounds a call whose context has no deadline. It is the
	// server's own default.
	DefaultTimeout = 5 * time.Second
	// DefaultMaxAttempts with the backoff below spans about two seconds of
	// waiting on average: an election.
	DefaultMaxAttempts = 10
)

// Options say how a Client reaches its cluster. The zero value reaches a node
// on this machine.
type Options struct {
	// Endpoints are nodes to begin with, as URLs or host:port. The other nodes
	// are learnt from them. Default: DefaultEndpoint.
	Endpoints []string
	// Via is the default of the Via option for every call.
	Via string
	// Timeout bounds each call whose context has no deadline, attempts and
	// waits included. Default DefaultTimeout; below 0: no bound.
	Timeout time.Duration
	// MaxAttempts bounds how often one call is sent. Default
	// DefaultMaxAttempts; 1: never tried again.
	MaxAttempts int
	// NoSession leaves out the session that the client carries from call to call
	// otherwise: each call stands alone, unless it is given a Session.
	NoSession bool
	// Session is the token that the carried session begins with, of
	// [Client.Session] or an answer.
	Session string
	// NoRing leaves the ring alone: calls go to the endpoints, which forward
	// them. For programs that make one call and end.
	NoRing bool
	// Dial opens connections. Default: TCP with keep-alives and a bound of 1 s.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Transport replaces the whole way to the nodes, Dial included. Default:
	// HTTP/2 without TLS by prior knowledge, no proxy, no compression. Unless
	// its dial errors are *net.OpError of Op "dial", a failed dial counts as an
	// unknown outcome for a write.
	Transport http.RoundTripper
}

// durationOf is d for a message; nil for 0.
func durationOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// settings is what the options of one call add up to.
type settings struct {
	via          string
	session      string
	mode         sessionMode
	consistency  capstanv1.Consistency
	maxStaleness *durationpb.Duration
	replicas     uint32
	acks         uint32
	condition    *capstanv1.Condition
	prefix       []byte
	start, end   []byte
	limit        uint32
	keysOnly     bool
}

// GetOption is an option that fits Get.
type GetOption interface{ forGet(*settings) }

// WriteOption is an option that fits Put and Delete.
type WriteOption interface{ forWrite(*settings) }

// ScanOption is an option that fits Scan.
type ScanOption interface{ forScan(*settings) }

// BatchOption is an option that fits Batch.
type BatchOption interface{ forBatch(*settings) }

// AwaitOption is an option that fits AwaitWrite.
type AwaitOption interface{ forAwait(*settings) }

// ConflictsOption is an option that fits Conflicts.
type ConflictsOption interface{ forList(*settings) }

// CallOption fits every call.
type CallOption func(*settings)

func (o CallOption) forGet(s *settings)   { o(s) }
func (o CallOption) forWrite(s *settings) { o(s) }
func (o CallOption) forScan(s *settings)  { o(s) }
func (o CallOption) forBatch(s *settings) { o(s) }
func (o CallOption) forAwait(s *settings) { o(s) }
func (o CallOption) forList(s *settings)  { o(s) }

// SessionOption fits every call about keys.
type SessionOption func(*settings)

func (o SessionOption) forGet(s *settings)   { o(s) }
func (o SessionOption) forWrite(s *settings) { o(s) }
func (o SessionOption) forScan(s *settings)  { o(s) }
func (o SessionOption) forBatch(s *settings) { o(s) }
func (o SessionOption) forAwait(s *settings) { o(s) }

// LevelOption fits Get, Put, Delete and Scan.
type LevelOption func(*settings)

func (o LevelOption) forGet(s *settings)   { o(s) }
func (o LevelOption) forWrite(s *settings) { o(s) }
func (o LevelOption) forScan(s *settings)  { o(s) }

// ReadOption fits Get and Scan.
type ReadOption func(*settings)

func (o ReadOption) forGet(s *settings)  { o(s) }
func (o ReadOption) forScan(s *settings) { o(s) }

// ListOption fits Scan and Conflicts.
type ListOption func(*settings)

func (o ListOption) forScan(s *settings) { o(s) }
func (o ListOption) forList(s *settings) { o(s) }

type (
	getOnly   func(*settings)
	writeOnly func(*settings)
	scanOnly  func(*settings)
)

func (o getOnly) forGet(s *settings)     { o(s) }
func (o writeOnly) forWrite(s *settings) { o(s) }
func (o scanOnly) forScan(s *settings)   { o(s) }

// Via sends the call to one node alone, given by its name, its id, host:port or
// a URL: no routing, no other node, no second attempt. Empty: the client's
// default.
func Via(node string) CallOption {
	return func(s *settings) {
		if node != "" {
			s.via = node
		}
	}
}

// Session makes the call a part of the session that a token of an earlier answer
// stands for, in place of the client's: it sees at least what that session saw and
// wrote, and its answer has the token to go on with. An empty token begins a
// new session.
func Session(token string) SessionOption {
	return func(s *settings) { s.session, s.mode = token, givenSession }
}

// NoSession makes the call stand alone: it may see less than the calls before
// it, and those after it need not see what it saw or wrote. An eventual read
// that fails because its session is behind can be answered so.
func NoSession() SessionOption {
	return func(s *settings) { s.session, s.mode = "", noSession }
}

// Linearizable is the default: correct, or an error.
func Linearizable() LevelOption {
	return func(s *settings) { s.consistency = capstanv1.Consistency_CONSISTENCY_LINEARIZABLE }
}

// Eventual is answered by whatever node can be reached. Writes are blind and
// tentative until AwaitWrite says otherwise; reads see tentative writes.
func Eventual() LevelOption {
	return func(s *settings) { s.consistency = capstanv1.Consistency_CONSISTENCY_EVENTUAL }
}

// Bounded reads committed state that is at most maxStaleness old.
func Bounded(maxStaleness time.Duration) ReadOption {
	return func(s *settings) {
		s.consistency = capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS
		s.maxStaleness = durationpb.New(maxStaleness)
	}
}

// Replicas asks n replicas and takes the newest answer; eventual reads only.
func Replicas(n uint32) GetOption { return getOnly(func(s *settings) { s.replicas = n }) }

// Acks waits until n nodes have an eventual write on disk. Default 1, at most
// the replication factor. With fewer nodes reachable the write is refused; if
// some are lost in the middle, its outcome is unknown and the error has the
// receipt.
func Acks(n uint32) WriteOption { return writeOnly(func(s *settings) { s.acks = n }) }

// IfAbsent writes only if the key is absent.
func IfAbsent() WriteOption {
	return writeOnly(func(s *settings) {
		s.condition = &capstanv1.Condition{Test: &capstanv1.Condition_Absent{Absent: true}}
	})
}

// IfPresent writes only if the key is present.
func IfPresent() WriteOption {
	return writeOnly(func(s *settings) {
		s.condition = &capstanv1.Condition{Test: &capstanv1.Condition_Present{Present: true}}
	})
}

// IfVersion writes only if the key's committed version is v.
func IfVersion(v Version) WriteOption {
	return writeOnly(func(s *settings) {
		s.condition = &capstanv1.Condition{Test: &capstanv1.Condition_Version{Version: v.message()}}
	})
}

// Prefix asks for the keys that begin with p. It excludes Range.
func Prefix(p []byte) ListOption { return func(s *settings) { s.prefix = p } }

// Range scans from start (inclusive) to end (exclusive; empty: no end).
func Range(start, end []byte) ScanOption {
	return scanOnly(func(s *settings) { s.start, s.end = start, end })
}

// Limit ends a list after n entries. 0: no limit.
func Limit(n uint32) ListOption { return func(s *settings) { s.limit = n } }

// KeysOnly leaves the values out of a scan.
func KeysOnly() ScanOption { return scanOnly(func(s *settings) { s.keysOnly = true }) }
