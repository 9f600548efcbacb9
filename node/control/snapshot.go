package control

import (
	"encoding/json"
	"fmt"
)

// snapshotVersion is raised when the form of the state changes. Version 1 has no
// recorded starts and is read too.
const snapshotVersion = 2

type snapshot struct {
	Version int    `json:"version"`
	State   *State `json:"state"`
}

// EncodeSnapshot is the state as it is kept on disk and sent to replicas.
func EncodeSnapshot(s *State) ([]byte, error) {
	return json.Marshal(snapshot{snapshotVersion, s})
}

// DecodeSnapshot reads what [EncodeSnapshot] wrote and nothing else: a newer
// version, unknown fields, anything trailing and a state that breaks an
// invariant are errors.
func DecodeSnapshot(data []byte) (*State, error) {
	var head struct{ Version int }
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("control snapshot: %w", err)
	}
	if head.Version < 1 || head.Version > snapshotVersion {
		return nil, fmt.Errorf("control snapshot of version %d, this program reads versions 1 to %d", head.Version, snapshotVersion)
	}
	var s snapshot
	if err := decodeExactly(data, &s); err != nil {
		return nil, fmt.Errorf("control snapshot: %w", err)
	}
	if s.State == nil {
		return nil, fmt.Errorf("control snapshot: no state")
	}
	if err := s.State.check(); err != nil {
		return nil, fmt.Errorf("control snapshot: %w", err)
	}
	return s.State, nil
}
