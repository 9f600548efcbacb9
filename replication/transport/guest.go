package transport

import (
	"slices"

	"github.com/capstan-kv/capstan/storage"
)

// isMember asks until the other side is a member: a node registers, and this one
// hears of it, while the connection stands. A member that is removed is dropped.
func (l *link) isMember() bool {
	if l.t.cfg.Member == nil || l.member.Load() {
		return true
	}
	if !l.t.cfg.Member(l.hello) {
		return false
	}
	l.member.Store(true)
	return true
}

// mayCall reports whether the other side reaches the handler of a kind.
func (l *link) mayCall(kind uint8) bool {
	return l.isMember() || slices.Contains(l.t.cfg.GuestKinds, kind)
}

// mayReplicate reports whether the other side speaks for replicas of a group.
func (l *link) mayReplicate(group storage.GroupID) bool {
	return l.isMember() || l.t.cfg.Guest != nil && l.t.cfg.Guest(group)
}
