// Package api is the public edge of a node: it decodes requests, checks them
// against the limits, hands them to a backend and encodes answers and errors.
// It decides nothing about data.
//
// Two doors lead to the same [KV]: RPCs (Connect, gRPC and gRPC-Web on one
// port, described in the .proto files beside this package) and plain HTTP under
// /kv/, for curl. Both build the same request messages, validate them with the
// same functions (validate.go) and map errors through the same table
// (errors.go), so they can not come to disagree.
//
// Invariants:
//   - A request that fails validation never reaches the backend.
//   - Every error that leaves through either door carries an ErrorInfo, which
//     says whether the operation was applied; so do errors that the RPC runtime
//     makes before a handler runs. An error without one is a proxy's.
//   - The level that a request asks for reaches the backend as it is: nothing
//     here answers at another one.
//   - "unavailable" always means not applied.
//   - No message is over [MaxMessageSize], and none is decompressed beyond it.
//
// Sessions are the backend's: this package looks at no token but for its length.
// Only a batch, whose operations share one, has their tokens merged.
//
// The node implements [KV], [Cluster], [Health] and, where that is wanted,
// [Chaos], and serves [NewHandler]
// through [NewServer].
package api
