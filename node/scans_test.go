package node

import (
	"context"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

// scanned is what a scan gave.
type scanned struct {
	keys, values []string
	more, ended  bool
	messages     int
}

// scan reads a range at m; during is called after each message.
func (m *machine) scan(start, end string, limit uint32, during func(n int)) (scanned, error) {
	return m.scanFor(&capstanv1.ScanRequest{Start: []byte(start), End: []byte(end), Limit: limit}, during)
}

func (m *machine) scanFor(req *capstanv1.ScanRequest, during func(n int)) (scanned, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*requestTime)
	defer cancel()
	var got scanned
	err := m.running().router.Scan(ctx, req, func(resp *capstanv1.ScanResponse) error {
		for _, e := range resp.GetEntries() {
			got.keys = append(got.keys, string(e.GetKey()))
			got.values = append(got.values, string(e.GetValue()))
		}
		if end := resp.GetEnd(); end != nil {
			got.more, got.ended = end.GetMore(), true
		}
		if got.messages++; during != nil {
			during(got.messages)
		}
		return nil
	})
	return got, err
}
