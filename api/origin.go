package api

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"connectrpc.com/connect"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// Local refuses requests that a web page sends to a listener on loopback. A page that a
// developer has open can make the browser connect to 127.0.0.1, by its address or
// under a name of the page's own that resolves to it (DNS rebinding). Such a request
// names a host that is not this machine, or an origin that is not the host.
//
// A request to a loopback address passes if its Host is an IP address, a name without a
// dot (no page can own one), a name below localhost, or one of hosts (without ports),
// and if its Origin, if any, is the same host and port. Requests to other addresses
// pass.
func Local(h http.Handler, hosts ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkLocal(r, hosts); err != nil && !isProbe(r.URL.Path) {
			writeFailure(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func isProbe(path string) bool { return path == "/livez" || path == "/healthz" || path == "/readyz" }

// checkLocal is a *failure, or nil.
func checkLocal(r *http.Request, hosts []string) *failure {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !isLoopback(address) {
		return nil
	}
	if !isLocalName(r.Host, hosts) {
		return forbidden("host %.60q is not this machine, and this address serves only this machine; try: http://localhost, or --advertise with that name", r.Host)
	}
	for _, origin := range r.Header["Origin"] {
		u, err := url.Parse(origin)
		if err != nil || u.Host != r.Host {
			return forbidden("a web page of another origin may not send requests to this address; try: from outside a browser")
		}
	}
	return nil
}

func forbidden(format string, args ...any) *failure {
	return &failure{
		code: connect.CodePermissionDenied, status: http.StatusForbidden, message: fmt.Sprintf(format, args...),
		info: &capstanv1.ErrorInfo{Outcome: capstanv1.Outcome_OUTCOME_NOT_APPLIED},
	}
}

func isLoopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// isLocalName tells hosts that no DNS server decides about. An absent one is from a
// client of HTTP/1.0.
func isLocalName(hostport string, hosts []string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if !strings.Contains(host, ".") || strings.HasSuffix(host, ".localhost") || slices.Contains(hosts, host) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
