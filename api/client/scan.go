package client

import (
	"context"
	"fmt"
	"iter"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Scan gives the entries in key order. The last thing it gives is an error if
// the scan did not come to its end: what came before is true, but more may
// follow. Stopping early is fine.
func (c *Client) Scan(ctx context.Context, opts ...ScanOption) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for m, err := range c.ScanMessages(ctx, opts...) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range m.GetEntries() {
				if !yield(Entry{Key: e.GetKey(), Value: e.GetValue(), Version: versionOf(e.GetVersion())}, nil) {
					return
				}
			}
		}
	}
}

// ScanMessages is Scan with the messages as they come: many entries each, and
// in the last one the end, which tells whether a limit left entries out, how
// fresh the answer is, and the session's token.
func (c *Client) ScanMessages(ctx context.Context, opts ...ScanOption) iter.Seq2[*capstanv1.ScanResponse, error] {
	var s settings
	for _, o := range opts {
		o.forScan(&s)
	}
	request := &capstanv1.ScanRequest{
		Prefix: s.prefix, Start: s.start, End: s.end, Limit: s.limit, KeysOnly: s.keysOnly,
		Consistency: s.consistency, MaxStaleness: s.maxStaleness, Session: s.session,
	}
	return func(yield func(*capstanv1.ScanResponse, error) bool) {
		ctx, cancel := c.bounded(ctx)
		defer cancel()
		// Until something was given to the caller, a broken scan begins anew,
		// elsewhere. Afterwards it may not: the entries would repeat.
		given, stopped := false, false
		_, err := invoke(ctx, c, call{op: "scan"}, s, func(attempt context.Context, n *node) (struct{}, string, error) {
			err := scanOnce(ctx, attempt, n, request, func(m *capstanv1.ScanResponse) bool {
				given = true
				stopped = !yield(m, nil)
				return !stopped
			})
			if err != nil && given {
				err = brokenScan{err}
			}
			return struct{}{}, "", err
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// brokenScan is a scan that failed after it had given entries.
type brokenScan struct{ error }

func (e brokenScan) Unwrap() []error { return []error{ErrIncomplete, e.error} }

// scanOnce runs one scan on one node. The attempt's shorter time bounds only
// the wait for the first message.
func scanOnce(ctx, attempt context.Context, n *node, request *capstanv1.ScanRequest, give func(*capstanv1.ScanResponse) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(attempt, cancel)
	defer stop()
	stream, err := n.kv.Scan(ctx, request)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		stop()
		m := stream.Msg()
		if !give(m) || m.GetEnd() != nil {
			return nil
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: it stopped without an end", ErrIncomplete)
}
