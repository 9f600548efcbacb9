package control

import (
	"crypto/hmac"
	"crypto/sha256"
)

// SecretBytes is how long a cluster's secret is at least: as long as what is
// made of it.
const SecretBytes = sha256.Size

// SessionKey is the key that authenticates session tokens and receipts, the
// same on every node of the cluster and for all its life; nil before the
// founding. Where the cluster has no secret, since an older program founded it,
// the key is made of its id alone: that still tells tokens of other clusters
// and damaged ones, but whoever knows the id can forge one.
func (s *State) SessionKey() []byte {
	if !s.Founded() {
		return nil
	}
	key := s.Settings.Secret
	if len(key) == 0 {
		key = []byte("a cluster without a secret")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("capstan session key 1\x00" + s.ClusterID))
	return mac.Sum(nil)
}
