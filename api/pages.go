package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// readyTimeout bounds a readiness probe: probes come again.
const readyTimeout = 2 * time.Second

func (d *door) serveFrontPage(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	writeText(w, http.StatusOK, strings.TrimSpace("capstan "+d.config.Version)+`: a replicated key-value store

  /kv/{key}      GET, HEAD, PUT, DELETE a key: curl -T file http://.../kv/cart:42
                 ?consistency=linearizable|bounded|eventual &acks= &max_staleness= &replicas= &timeout=
  /livez         is the process alive?  (also /healthz)
  /readyz        may it be sent requests?  ?level=linearizable: also with a quorum?
  /metrics       figures for Prometheus
  /capstan.v1.KVService/ and /capstan.v1.ClusterService/
                 the same and more as Connect, gRPC and gRPC-Web, with gRPC health and reflection:
                 curl --json '{"key":"Y2FydDo0Mg=="}' http://.../capstan.v1.KVService/Get
`)
}

func (d *door) serveLive(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	writeHealth(w, d.config.Health.Live())
}

func (d *door) serveReady(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	query, err := parseQuery(r.URL.RawQuery, "level")
	if err != nil {
		writeFailure(w, failureOf(err, false, nil))
		return
	}
	var level capstanv1.Consistency
	if text, given := query["level"]; given {
		if text != "linearizable" {
			writeFailure(w, failureOf(badOption("unknown level %.40q; try: linearizable, or no level", text), false, nil))
			return
		}
		level = linearizable
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	writeHealth(w, d.config.Health.Ready(ctx, level))
}

func writeHealth(w http.ResponseWriter, err error) {
	if err != nil {
		writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

func writeText(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client is gone, or it was HEAD
}

// allow answers a method that is not among allowed and reports false.
func allow(w http.ResponseWriter, r *http.Request, allowed ...string) bool {
	for _, method := range allowed {
		if r.Method == method {
			return true
		}
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	writeFailure(w, &failure{
		code: connect.CodeUnimplemented, status: http.StatusMethodNotAllowed,
		message: fmt.Sprintf("method %.20s not allowed here; try: %s", r.Method, list),
		info:    notApplied(),
	})
	return false
}

func notFound(message string) *failure {
	return &failure{
		code: connect.CodeNotFound, status: http.StatusNotFound, message: message,
		info: &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED},
	}
}

// writeFailure answers with f as Connect's JSON. HEAD gets the same headers.
func writeFailure(w http.ResponseWriter, f *failure) {
	type detail struct {
		Type  string          `json:"type"`
		Value string          `json:"value"`
		Debug json.RawMessage `json:"debug,omitempty"`
	}
	answer := struct {
		Code    string   `json:"code"`
		Message string   `json:"message"`
		Details []detail `json:"details,omitempty"`
	}{Code: f.code.String(), Message: f.message}
	if raw, err := proto.Marshal(f.info); err == nil {
		debug, _ := strictJSON{}.Marshal(f.info) // for people only: without it the answer is still whole
		answer.Details = []detail{{string(f.info.ProtoReflect().Descriptor().FullName()), base64.RawStdEncoding.EncodeToString(raw), debug}}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		text = []byte(`{"code":"internal"}`)
	}
	text = append(text, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	switch f.info.GetOutcome() {
	case capstanv1.Outcome_OUTCOME_NOT_APPLIED:
		h.Set(headerOutcome, "not-applied")
	default:
		h.Set(headerOutcome, "unknown")
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(text) // the client is gone, or it was HEAD
}
