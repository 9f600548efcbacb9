package client

import (
	"context"
	"iter"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Scan gives the entries in key order. The last thing it gives is an error if
// the scan did not come to its end: what came before is true, but more may
// follow. Stopping early is fine; what was seen until then is no part of the
// session.
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
	return func(yield func(*capstanv1.ScanResponse, error) bool) {
		ctx, cancel := c.bounded(ctx)
		defer cancel()
		s, what := s, call{op: "scan", near: s.near()}
		st, err := c.begin(ctx, what, &s)
		if err != nil {
			yield(nil, err)
			return
		}
		request := &capstanv1.ScanRequest{
			Prefix: s.prefix, Start: s.start, End: s.end, Limit: s.limit, KeysOnly: s.keysOnly,
			Consistency: s.consistency, MaxStaleness: s.maxStaleness, Session: s.session,
		}
		stopped, err := stream(ctx, c, what, s, streamCall[capstanv1.ScanResponse]{
			open: func(ctx context.Context, n *node) (*connect.ServerStreamForClient[capstanv1.ScanResponse], error) {
				return n.kv.Scan(ctx, request)
			},
			give: func(m *capstanv1.ScanResponse) bool {
				if end := m.GetEnd(); end != nil {
					st.end(end.GetSession(), nil)
				}
				return yield(m, nil)
			},
			last: func(m *capstanv1.ScanResponse) bool { return m.GetEnd() != nil },
		})
		if err != nil {
			st.end("", err)
			if !stopped {
				yield(nil, err)
			}
		}
	}
}
