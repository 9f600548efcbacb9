package client

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
)

// streamCall is a call that is answered with many messages.
type streamCall[M any] struct {
	open func(context.Context, *node) (*connect.ServerStreamForClient[M], error)
	// give hands one message to the caller, who says whether he wants more.
	give func(*M) bool
	// last tells the last message from the others; nil if the protocol marks none.
	last func(*M) bool
}

// stream runs a call to its end, or until its caller has stopped it. Until
// something was given to the caller, a broken one begins anew, elsewhere.
// Afterwards it may not: what was given would repeat.
func stream[M any](ctx context.Context, c *Client, what call, s settings, sc streamCall[M]) (stopped bool, err error) {
	given := false
	give := sc.give
	sc.give = func(m *M) bool {
		given = true
		stopped = !give(m)
		return !stopped
	}
	_, err = invoke(ctx, c, what, s, func(attempt context.Context, n *node) (struct{}, string, error) {
		err := sc.once(ctx, attempt, n)
		if err != nil && given {
			err = brokenStream{err}
		}
		return struct{}{}, "", err
	})
	return stopped, err
}

// brokenStream is a stream that failed after it had given something.
type brokenStream struct{ error }

func (e brokenStream) Unwrap() []error { return []error{ErrIncomplete, e.error} }

// once runs the call on one node. The attempt's shorter time bounds only the
// wait for the first message.
func (sc *streamCall[M]) once(ctx, attempt context.Context, n *node) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(attempt, cancel)
	defer stop()
	messages, err := sc.open(ctx, n)
	if err != nil {
		return err
	}
	defer func() { _ = messages.Close() }()
	for messages.Receive() {
		stop()
		m := messages.Msg()
		if !sc.give(m) || sc.last != nil && sc.last(m) {
			return nil
		}
	}
	if err := messages.Err(); err != nil {
		return err
	}
	if sc.last != nil {
		return fmt.Errorf("%w: it stopped without an end", ErrIncomplete)
	}
	return nil
}
