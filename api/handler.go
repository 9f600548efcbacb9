package api

import (
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
)

// NewHandler serves everything that a node offers to clients on one port: RPCs
// as Connect, gRPC and gRPC-Web, plain HTTP under /kv/, health checks, metrics
// and reflection. It panics if the configuration lacks a backend. Serve it
// with [NewServer].
func NewHandler(c Config) http.Handler {
	if c.KV == nil || c.Cluster == nil || c.Health == nil {
		panic("api: NewHandler needs KV, Cluster and Health")
	}
	if c.MaxValueSize <= 0 {
		c.MaxValueSize = DefaultMaxValueSize
	}
	c.MaxValueSize = min(c.MaxValueSize, MaxMaxValueSize)
	if c.Budgets == nil {
		b := NewBudgets(defaultBudgetBytes, defaultRequests)
		c.Budgets = &b
	}
	ops := &operations{config: c}
	d := &door{config: c, plain: &plainDoor{ops: ops}, services: map[string]http.Handler{}}
	d.errors = connect.NewErrorWriter()

	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(MaxMessageSize),
		connect.WithSendMaxBytes(MaxMessageSize),
		connect.WithCompressMinBytes(compressMinBytes),
		connect.WithCompression("gzip", newDecompressor, newCompressor),
		connect.WithCodec(strictJSON{"json"}),
		connect.WithCodec(strictJSON{"json; charset=utf-8"}),
		connect.WithInterceptors(&edge{config: c}),
	}
	mount := func(path string, h http.Handler) { d.services[strings.Trim(path, "/")] = h }
	mount(capstanv1connect.NewKVServiceHandler(kvService{ops: ops}, options...))
	mount(capstanv1connect.NewClusterServiceHandler(clusterService{ops: ops}, options...))
	services := []string{capstanv1connect.KVServiceName, capstanv1connect.ClusterServiceName}
	if c.Chaos != nil {
		mount(capstanv1connect.NewChaosServiceHandler(chaosService{ops: ops}, options...))
		services = append(services, capstanv1connect.ChaosServiceName)
	}
	options = append(options, connect.WithReadMaxBytes(maxStreamBody)) // of names only
	mount(grpchealth.NewHandler(healthChecker{c.Health, services}, options...))
	reflector := grpcreflect.NewStaticReflector(append(services, grpchealth.HealthV1ServiceName)...)
	mount(grpcreflect.NewHandlerV1(reflector, options...))
	mount(grpcreflect.NewHandlerV1Alpha(reflector, options...))
	return d
}

// door routes by the raw path: nothing is cleaned and nothing redirected, since
// everything after /kv/ is a key.
type door struct {
	config   Config
	plain    *plainDoor
	services map[string]http.Handler // by full service name
	errors   *connect.ErrorWriter
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	widenStack(false)
	path := r.URL.EscapedPath()
	switch path {
	case "/livez", "/healthz":
		d.serveLive(w, r) // whoever asks: probes must get through, and learn nothing
		return
	case "/readyz":
		d.serveReady(w, r)
		return
	}
	start := time.Now()
	guarded, err := d.config.Budgets.enter(w, r, start)
	if err != nil {
		d.refuse(w, r, err)
		return
	}
	defer guarded.leave()
	if strings.HasPrefix(path, keyPrefix) {
		d.plain.serve(guarded, r)
		return
	}
	if service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/"); ok {
		if h := d.services[service]; h != nil {
			d.serveRPC(guarded, r, h, service, method)
			return
		}
	}
	switch path {
	case "/":
		d.serveFrontPage(guarded, r)
	case "/metrics":
		if d.config.Metrics == nil {
			d.serveNothing(guarded, r)
		} else if allow(guarded, r, http.MethodGet, http.MethodHead) {
			d.config.Metrics.ServeHTTP(guarded, r)
		}
	default:
		d.serveNothing(guarded, r)
	}
}

// refuse answers a request that is not let in, in the caller's protocol.
func (d *door) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := failureOf(err, false, nil)
	if d.errors.IsSupported(r) && r.Method == http.MethodPost {
		_ = d.errors.Write(w, r, f.connectError()) // the client is gone
	} else {
		w.Header().Set("Connection", "close") // what is left of the body is not read
		writeFailure(w, f)
	}
	if d.config.Observer != nil {
		d.config.Observer.Observe("other", levelNone, f.code.String(), 0)
	}
}

// serveNothing answers a path that leads nowhere, in the caller's protocol.
func (d *door) serveNothing(w http.ResponseWriter, r *http.Request) {
	if d.errors.IsSupported(r) && r.Method == http.MethodPost {
		_ = d.errors.Write(w, r, failureOf(ErrUnimplemented(methodPath(r)), false, nil).connectError()) // the client is gone
		return
	}
	writeFailure(w, notFound("nothing here; try: / for what there is"))
}

// methodPath is the path for a message: short, whatever was sent.
func methodPath(r *http.Request) string {
	const most = 120 // bytes: the longest real one has under 60
	path := r.URL.EscapedPath()
	if len(path) > most {
		path = path[:most] + "..."
	}
	return path
}
