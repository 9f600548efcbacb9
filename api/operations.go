package api

import (
	"context"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// operations is what both doors do with a decoded request: check it, then hand
// it to the backend.
type operations struct{ config Config }

func (o *operations) get(ctx context.Context, r *capstanv1.GetRequest) (*capstanv1.GetResponse, error) {
	if err := validateGet(r); err != nil {
		return nil, err
	}
	return o.config.KV.Get(ctx, r)
}

func (o *operations) put(ctx context.Context, r *capstanv1.PutRequest) (*capstanv1.PutResponse, error) {
	if err := validatePut(r, o.config.MaxValueSize); err != nil {
		return nil, err
	}
	return o.config.KV.Put(ctx, r)
}

func (o *operations) delete(ctx context.Context, r *capstanv1.DeleteRequest) (*capstanv1.DeleteResponse, error) {
	if err := validateDelete(r); err != nil {
		return nil, err
	}
	return o.config.KV.Delete(ctx, r)
}

func (o *operations) scan(ctx context.Context, r *capstanv1.ScanRequest, emit func(*capstanv1.ScanResponse) error) error {
	if err := validateScan(r); err != nil {
		return err
	}
	return o.config.KV.Scan(ctx, r, emit)
}
