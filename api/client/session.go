package client

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// mergeRounds bounds how often one call has tokens merged before it is sent.
// Each round makes one of as many as a request can hold.
const mergeRounds = 64

// sessionMode is where a call's session comes from.
type sessionMode uint8

const (
	carriedSession sessionMode = iota // the client's
	givenSession                      // the caller's, who is given the new token
	noSession
)

// step is one call as a part of the client's session; nil if it is none.
type step struct {
	client *Client
	scope  int
	sent   []string
	life   uint64 // of the jar that sent was taken from
}

// begin puts the client's session into s, if the call is a part of it.
func (c *Client) begin(ctx context.Context, what call, s *settings) (*step, error) {
	if s.mode == carriedSession && c.noSession {
		s.mode = noSession
	}
	if s.mode != carriedSession {
		return nil, nil
	}
	st := &step{client: c, scope: everywhere}
	if r := c.ring.Load(); r != nil && what.key != nil {
		st.scope = int(partitionOf(what.key, len(r.partitions)))
	}
	var err error
	if st.sent, st.life, err = c.taken(ctx, what.op, st.scope); err != nil {
		return nil, err
	}
	s.session = joinTokens(st.sent)
	return st, nil
}

// end takes up what the call was answered with, and gives the token to show
// the caller: none if the client carries it.
func (st *step) end(token string, err error) string {
	if st == nil {
		return token
	}
	var e *Error
	switch {
	case err == nil:
		st.client.jar.replace(st.scope, st.sent, token)
	case !errors.As(err, &e):
	case e.Session != "":
		st.client.jar.replace(st.scope, st.sent, e.Session)
		e.Session = ""
	case e.Reason == capstanv1.Reason_REASON_BAD_TOKEN && len(st.sent) > 0:
		// Another cluster answers there now. To send the same tokens again and
		// again would fail for ever; this call has said so.
		st.client.jar.forget(st.life)
	}
	return ""
}

// taken gives the tokens to send for a scope, merged until they fit.
func (c *Client) taken(ctx context.Context, op string, scope int) (tokens []string, life uint64, err error) {
	tokens, life = c.jar.take(scope)
	if joined(tokens) <= maxToken {
		return tokens, life, nil
	}
	// One at a time: those that come meanwhile find few tokens left.
	select {
	case c.merging <- struct{}{}:
		defer func() { <-c.merging }()
	case <-ctx.Done():
		return nil, 0, contextError(ctx, call{op: op})
	}
	for range mergeRounds {
		if tokens, life = c.jar.take(scope); joined(tokens) <= maxToken {
			return tokens, life, nil
		}
		some := mergeable(tokens)
		if some == nil {
			break
		}
		token, err := c.mergeTokens(ctx, op, some)
		if errors.Is(err, ErrBadToken) {
			c.jar.forget(life) // as in end
		}
		if err != nil {
			return nil, 0, err
		}
		c.jar.replace(scope, some, token)
	}
	e := refusal(call{op: op}, connect.CodeInvalidArgument, "the client's session does not fit into %d bytes", maxToken)
	e.Reason, e.Try = capstanv1.Reason_REASON_BAD_TOKEN, "again once writes are committed, or NoSession"
	return nil, 0, e
}

// mergeTokens has any node make one token of several: a batch of nothing.
func (c *Client) mergeTokens(ctx context.Context, op string, tokens []string) (string, error) {
	request := &capstanv1.BatchRequest{Session: joinTokens(tokens)}
	return invoke(ctx, c, call{op: op}, settings{}, func(ctx context.Context, n *node) (string, string, error) {
		m, err := n.kv.Batch(ctx, request)
		return m.GetSession(), "", err
	})
}

// Session gives the client's session as one token, for another process to go on
// with: it sees at least what the calls of this client that have returned saw and
// wrote. It is empty if there is nothing to remember. It asks the cluster only
// where the tokens of many calls have to be merged.
func (c *Client) Session(ctx context.Context) (string, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	tokens, _, err := c.taken(ctx, "session", everywhere)
	return joinTokens(tokens), err
}

// inSession sends a call as a part of the session that its options name. send
// makes the request of the settings, session included; token is where an answer
// keeps its own.
func inSession[T any](ctx context.Context, c *Client, what call, s settings,
	send func(ctx context.Context, s *settings) (T, error), token func(T) *string,
) (T, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	st, err := c.begin(ctx, what, &s)
	if err != nil {
		var none T
		return none, err
	}
	answer, err := send(ctx, &s)
	if err != nil {
		st.end("", err)
		return answer, err
	}
	at := token(answer)
	*at = st.end(*at, nil)
	return answer, nil
}
