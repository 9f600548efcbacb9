// Package budget bounds what a node holds at a time for others.
//
// Work that takes memory claims it from a [Budget] first and gives it back when the
// work ends. A budget has no queue: a claim that does not fit fails at once, with a
// [*Full] error, before the work is done. The caller refuses the work definitely.
//
// Who holds a claim and waits for the other side (for the rest of a body, for a
// reader to read) says so with [Claim.Wait]. The budget ends such a claim when nothing
// has moved for [Limits.Patience], and as soon as [Limits.Pressed] if somebody else
// needs the room. The claims that have been without progress for longest go first, so
// those who stand still never keep out those who get on.
//
// docs/limits.md lists every budget of a node.
package budget
