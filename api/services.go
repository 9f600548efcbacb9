package api

import (
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
)

// kvService is the RPC door to [KV].
type kvService struct{ ops *operations }

var _ capstanv1connect.KVServiceHandler = kvService{}

func (s kvService) Get(ctx context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	// Twice: the message, and what it is encoded to.
	return s.ops.get(WithAdmit(ctx, func(bytes int) error { return callOf(ctx).guard.claimAnswer(2 * bytes) }), r)
}

func (s kvService) Put(ctx context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	return s.ops.put(ctx, r)
}

func (s kvService) Delete(ctx context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	return s.ops.delete(ctx, r)
}

func (s kvService) Batch(ctx context.Context, r *capstanv1.BatchRequest) (*capstanv1.BatchResponse, error) {
	return s.ops.batch(ctx, r)
}

func (s kvService) Scan(ctx context.Context, r *capstanv1.ScanRequest, stream *connect.ServerStream[capstanv1.ScanResponse]) error {
	call := callOf(ctx)
	call.received()
	call.level = levelLabel(r.GetConsistency())
	return s.ops.scan(ctx, r, stream.Send)
}

func (s kvService) AwaitWrite(ctx context.Context, r *capstanv1.AwaitWriteRequest) (*capstanv1.AwaitWriteResponse, error) {
	if err := validateAwait(r); err != nil {
		return nil, err
	}
	return s.ops.config.KV.AwaitWrite(ctx, r)
}

func (s kvService) Pipeline(context.Context, *connect.BidiStream[capstanv1.PipelineRequest, capstanv1.PipelineResponse]) error {
	return ErrUnimplemented("pipelines")
}

func (s kvService) ListConflicts(ctx context.Context, r *capstanv1.ListConflictsRequest, stream *connect.ServerStream[capstanv1.ListConflictsResponse]) error {
	callOf(ctx).received()
	if err := validateConflicts(r); err != nil {
		return err
	}
	return s.ops.config.KV.ListConflicts(ctx, r, stream.Send)
}

// clusterService is the RPC door to [Cluster].
type clusterService struct{ ops *operations }

var _ capstanv1connect.ClusterServiceHandler = clusterService{}

func (s clusterService) GetStatus(ctx context.Context, r *capstanv1.GetStatusRequest) (*capstanv1.GetStatusResponse, error) {
	return s.ops.config.Cluster.GetStatus(ctx, r)
}

func (s clusterService) LocateKey(ctx context.Context, r *capstanv1.LocateKeyRequest) (*capstanv1.LocateKeyResponse, error) {
	if err := validateLocate(r); err != nil {
		return nil, err
	}
	return s.ops.config.Cluster.LocateKey(ctx, r)
}

func (s clusterService) DrainNode(ctx context.Context, r *capstanv1.DrainNodeRequest) (*capstanv1.DrainNodeResponse, error) {
	if err := validateNode(r.GetNode()); err != nil {
		return nil, err
	}
	return s.ops.config.Cluster.DrainNode(ctx, r)
}

func (s clusterService) RemoveNode(ctx context.Context, r *capstanv1.RemoveNodeRequest) (*capstanv1.RemoveNodeResponse, error) {
	if err := validateNode(r.GetNode()); err != nil {
		return nil, err
	}
	return s.ops.config.Cluster.RemoveNode(ctx, r)
}

func (s clusterService) TransferLeadership(ctx context.Context, r *capstanv1.TransferLeadershipRequest) (*capstanv1.TransferLeadershipResponse, error) {
	if err := validateTransfer(r); err != nil {
		return nil, err
	}
	return s.ops.config.Cluster.TransferLeadership(ctx, r)
}

func (s clusterService) CompareReplicas(ctx context.Context, r *capstanv1.CompareReplicasRequest) (*capstanv1.CompareReplicasResponse, error) {
	return s.ops.config.Cluster.CompareReplicas(ctx, r)
}

// chaosService is the RPC door to [Chaos].
type chaosService struct{ ops *operations }

var _ capstanv1connect.ChaosServiceHandler = chaosService{}

func (s chaosService) SetCut(ctx context.Context, r *capstanv1.SetCutRequest) (*capstanv1.SetCutResponse, error) {
	if err := validateCut(r); err != nil {
		return nil, err
	}
	return s.ops.config.Chaos.SetCut(ctx, r)
}

func (s chaosService) GetCut(ctx context.Context, r *capstanv1.GetCutRequest) (*capstanv1.GetCutResponse, error) {
	return s.ops.config.Chaos.GetCut(ctx, r)
}

var errUnknownService = errors.New("unknown service")

// healthChecker is gRPC's health protocol: a service is up when the node is
// ready; "" is the node as a whole.
type healthChecker struct {
	health   Health
	services []string
}

// Check implements [grpchealth.Checker].
func (h healthChecker) Check(ctx context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if r.Service != "" && !slices.Contains(h.services, r.Service) {
		return nil, connect.NewError(connect.CodeNotFound, errUnknownService)
	}
	serving := h.health.Live() == nil && h.health.Ready(ctx, capstanv1.Consistency_CONSISTENCY_UNSPECIFIED) == nil
	if !serving {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
