package api

import "net/http"

// NewServer is the HTTP server for a [NewHandler]: HTTP/1.1, HTTP/2 by prior
// knowledge (h2c), and HTTP/2 over TLS when served with it, with limits on
// headers, idle connections, streams, and the time that clients take for what they
// send and read. The caller serves and shuts it down; it counts connections if its
// listener is one of [Connections.Listen].
func NewServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols,
		ConnContext:       connContext,
		ConnState:         connState,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxConcurrentStreams,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
			WriteByteTimeout:     answerPatience,
		},
	}
}
