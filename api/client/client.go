package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
)

const (
	// maxMessage is the protocol's bound on one message, in bytes.
	maxMessage = 4 << 20
	// dialTimeout leaves time for other nodes within the default deadline.
	dialTimeout = time.Second
	// pingAfter of silence a connection is asked for a sign of life, and given
	// up after pingTimeout: a cut shows before the default deadline is over
	// for calls that follow.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
	// idleTimeout closes connections that nobody uses.
	idleTimeout = 90 * time.Second
)

var errNotEndpoint = errors.New("not of the form http://host:port")

// Client talks to one cluster. Any number of goroutines may use it at once.
type Client struct {
	http        *http.Client
	seeds       []*node
	via         string
	timeout     time.Duration
	maxAttempts int
	noRing      bool
	noSession   bool
	home        uint32 // which of several near replicas this client asks, see nearFirst
	jar         jar
	merging     chan struct{} // holds one while tokens are merged

	ring atomic.Pointer[ring]

	ctx        context.Context // ends with Close; of background work only
	cancel     context.CancelFunc
	background sync.WaitGroup

	mu         sync.Mutex
	nodes      map[string]*node // by base URL: the endpoints, the ring's, those hinted at
	closed     bool
	refreshing bool
	refreshed  time.Time // when the last refresh began
}

// node is one place to send calls to.
type node struct {
	base     string
	address  string       // what is dialed for it
	distance atomic.Int64 // ns that its last connection took to open; 0: not known
	kv       capstanv1connect.KVServiceClient
	cluster  capstanv1connect.ClusterServiceClient
	chaos    capstanv1connect.ChaosServiceClient
	failedAt atomic.Int64 // Unix ns of the last failed connection
	failures atomic.Int32 // how many in a row
}

// New makes a client. It does not wait for the cluster: the first call does.
func New(o Options) (*Client, error) {
	if len(o.Endpoints) == 0 {
		o.Endpoints = []string{DefaultEndpoint}
	}
	c := &Client{
		via: o.Via, timeout: o.Timeout, maxAttempts: o.MaxAttempts, noRing: o.NoRing,
		noSession: o.NoSession, home: rand.Uint32(), merging: make(chan struct{}, 1),
		nodes: make(map[string]*node),
	}
	if len(o.Session) > maxToken {
		return nil, fmt.Errorf("session of %d bytes, at most %d", len(o.Session), maxToken)
	}
	c.jar.replace(everywhere, nil, o.Session)
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	if c.maxAttempts <= 0 {
		c.maxAttempts = DefaultMaxAttempts
	}
	transport := o.Transport
	if transport == nil {
		transport = c.newTransport(o.Dial)
	}
	c.http = &http.Client{
		Transport: transport,
		// A redirected write would be sent twice.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, endpoint := range o.Endpoints {
		base, err := baseURL(endpoint)
		if err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", endpoint, errNotEndpoint)
		}
		c.seeds = append(c.seeds, c.nodeAt(base))
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func (c *Client) newTransport(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	dial = c.measured(dial)
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, dialError{err}
			}
			return conn, nil
		},
		Protocols:          protocols,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression: true,
		IdleConnTimeout:    idleTimeout,
	}
}

// nodeAt is the node at a base URL, made when it is first heard of.
func (c *Client) nodeAt(base string) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[base]; n != nil {
		return n
	}
	options := []connect.ClientOption{
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(maxMessage),
	}
	n := &node{
		base: base, address: addressOf(base),
		kv:      capstanv1connect.NewKVServiceClient(c.http, base, options...),
		cluster: capstanv1connect.NewClusterServiceClient(c.http, base, options...),
		chaos:   capstanv1connect.NewChaosServiceClient(c.http, base, options...),
	}
	c.nodes[base] = n
	return n
}

// Close ends the background work and closes idle connections. Call it after
// the last call has returned; calls that begin later fail with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.background.Wait()
	c.http.CloseIdleConnections()
	return nil
}

func (c *Client) open(op string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &Error{Op: op, Code: connect.CodeCanceled, Message: ErrClosed.Error(), Err: ErrClosed, Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED}
	}
	return nil
}

// bounded gives a context without deadline the client's.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || c.timeout < 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// Get reads one key.
func (c *Client) Get(ctx context.Context, key []byte, opts ...GetOption) (*GetResult, error) {
	var s settings
	for _, o := range opts {
		o.forGet(&s)
	}
	what := call{op: "get", key: routable(key), near: s.near()}
	return inSession(ctx, c, what, s, func(ctx context.Context, s *settings) (*GetResult, error) {
		request := s.get(key)
		return invoke(ctx, c, what, *s, func(ctx context.Context, n *node) (*GetResult, string, error) {
			m, err := n.kv.Get(ctx, request)
			if err != nil {
				return nil, "", err
			}
			return getResult(m), m.GetFreshness().GetServedBy(), nil
		})
	}, func(r *GetResult) *string { return &r.Session })
}

// Put writes one key.
func (c *Client) Put(ctx context.Context, key, value []byte, opts ...WriteOption) (*PutResult, error) {
	var s settings
	for _, o := range opts {
		o.forWrite(&s)
	}
	what := call{op: "put", write: true, key: routable(key), near: s.near()}
	return inSession(ctx, c, what, s, func(ctx context.Context, s *settings) (*PutResult, error) {
		request := s.put(key, value)
		if err := fits(what, request); err != nil {
			return nil, err
		}
		return invoke(ctx, c, what, *s, func(ctx context.Context, n *node) (*PutResult, string, error) {
			m, err := n.kv.Put(ctx, request)
			if err == nil && m.GetVersion() == nil {
				err = fmt.Errorf("%w: a put without a version", errMalformed)
			}
			if err != nil {
				return nil, "", err
			}
			return putResult(m), m.GetServedBy(), nil
		})
	}, func(r *PutResult) *string { return &r.Session })
}

// Delete deletes one key; that it was absent is no error.
func (c *Client) Delete(ctx context.Context, key []byte, opts ...WriteOption) (*DeleteResult, error) {
	var s settings
	for _, o := range opts {
		o.forWrite(&s)
	}
	what := call{op: "delete", write: true, key: routable(key), near: s.near()}
	return inSession(ctx, c, what, s, func(ctx context.Context, s *settings) (*DeleteResult, error) {
		request := s.delete(key)
		return invoke(ctx, c, what, *s, func(ctx context.Context, n *node) (*DeleteResult, string, error) {
			m, err := n.kv.Delete(ctx, request)
			if err == nil && m.GetVersion() == nil {
				err = fmt.Errorf("%w: a delete without a version", errMalformed)
			}
			if err != nil {
				return nil, "", err
			}
			return deleteResult(m), m.GetServedBy(), nil
		})
	}, func(r *DeleteResult) *string { return &r.Session })
}

// routable is the key to route by; a key that no partition can have goes to any
// node, which refuses it.
func routable(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return key
}

// fits refuses a message that no node would read, before it is sent.
func fits(what call, m proto.Message) error {
	if n := proto.Size(m); n > maxMessage {
		return refusal(what, connect.CodeInvalidArgument, "the message has %d bytes, %d are the most", n, maxMessage)
	}
	return nil
}

// near reports whether any node may serve the call: it needs no leader.
func (s *settings) near() bool {
	switch s.consistency {
	case capstanv1.Consistency_CONSISTENCY_EVENTUAL, capstanv1.Consistency_CONSISTENCY_BOUNDED_STALENESS:
		return true
	}
	return false
}

func (s *settings) get(key []byte) *capstanv1.GetRequest {
	return &capstanv1.GetRequest{
		Key: key, Consistency: s.consistency, MaxStaleness: s.maxStaleness, Replicas: s.replicas, Session: s.session,
	}
}

func (s *settings) put(key, value []byte) *capstanv1.PutRequest {
	return &capstanv1.PutRequest{
		Key: key, Value: value, Consistency: s.consistency, Acks: s.acks, Condition: s.condition, Session: s.session,
	}
}

func (s *settings) delete(key []byte) *capstanv1.DeleteRequest {
	return &capstanv1.DeleteRequest{
		Key: key, Consistency: s.consistency, Acks: s.acks, Condition: s.condition, Session: s.session,
	}
}
