package transport

import (
	"errors"
	"fmt"
)

var (
	// ErrUnreachable is definite: nothing was delivered, nor will it be.
	ErrUnreachable = errors.New("peer is unreachable")
	// ErrLost is indefinite: it was sent, and no answer came.
	ErrLost = errors.New("no answer from peer")
	// ErrBusy is definite: a full queue here or there refused it.
	ErrBusy = errors.New("too much is waiting")
	// ErrNoHandler is definite: the peer does not know this kind of call.
	ErrNoHandler = errors.New("peer does not handle this call")
	// ErrNoReplica is definite: the addressed replica generation is not open there.
	ErrNoReplica = errors.New("no such replica")
	// ErrRefused is definite: the peer holds the request to be invalid.
	ErrRefused = errors.New("the peer refused the request as invalid")
	// ErrTooLarge is definite: the message is over [MaxMessage].
	ErrTooLarge = errors.New("message is too large")
	// ErrClosed is definite: the transport or the group is closed.
	ErrClosed = errors.New("transport is closed")

	// ErrCut: a deliberate cut lies between; see [Config.Allow]. It comes with
	// ErrUnreachable, or with ErrLost for what was under way.
	ErrCut = errors.New("cut off deliberately")
	// ErrVersion: the other side speaks another protocol version.
	ErrVersion = errors.New("peer speaks another protocol version")
	// ErrNotAdmitted: the other side was judged and refused, or refused us.
	ErrNotAdmitted = errors.New("peer was not admitted")
	// ErrPeerRemoved is what Admit says of a node that was removed for ever.
	ErrPeerRemoved = errors.New("the peer was removed from the cluster for ever")
	// ErrRemoved: the other side says that of this node. ErrNotAdmitted, too.
	ErrRemoved = errors.New("this node was removed from the cluster for ever")
	// ErrPeerOutdated is what Admit says of a node whose data directory is older
	// than the start that the cluster registered.
	ErrPeerOutdated = errors.New("the peer runs on an older copy of its data directory")
	// ErrOutdated: the other side says that of this node. ErrNotAdmitted, too.
	ErrOutdated = errors.New("this node runs on an older copy of its data directory")
	// ErrWrongPeer: another node than the expected one answered there.
	ErrWrongPeer = errors.New("another node has this address")
	// ErrProtocol: the other side broke the protocol, or bytes were damaged.
	ErrProtocol = errors.New("protocol violation")

	errUseMine  = errors.New("both sides dialed: the other dial goes ahead")
	errReplaced = errors.New("replaced by a newer connection")
	errSilent   = fmt.Errorf("nothing heard for %v", DeadAfter)
)

// RemoteError is an error of the handler itself, carried as bytes. A handler
// that returns one decides Code and Payload; any other error travels as its
// text under code 0. Whether it is definite is between handler and caller.
type RemoteError struct {
	Code    uint8
	Payload []byte
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer answered: %s", e.Payload) }

// answer codes on the wire
const (
	codeOK         = 0
	codeError      = 1 // a RemoteError follows: code, payload
	codeBusy       = 2
	codeNoHandler  = 3
	codeNoReplica  = 4
	codeNotOpen    = 5 // closed while it was handled: indefinite
	codeHeartbeatE = 6 // a heartbeat that failed; its text does not travel
	codeRefused    = 7
)

// answerError is the error of an answer; nil for codeOK.
func answerError(code uint8, body []byte) error {
	switch code {
	case codeOK:
		return nil
	case codeError:
		if len(body) == 0 {
			return fmt.Errorf("%w: empty error", ErrProtocol)
		}
		return &RemoteError{Code: body[0], Payload: body[1:]}
	case codeBusy:
		return ErrBusy
	case codeNoHandler:
		return ErrNoHandler
	case codeNoReplica:
		return ErrNoReplica
	case codeRefused:
		return ErrRefused
	case codeNotOpen:
		return fmt.Errorf("%w: it closed meanwhile", ErrLost)
	case codeHeartbeatE:
		return &RemoteError{Payload: []byte("heartbeat failed")}
	}
	return fmt.Errorf("%w: answer code %d", ErrProtocol, code)
}

// errorAnswer is the code and body that carry err.
func errorAnswer(err error) (uint8, []byte) {
	var remote *RemoteError
	switch {
	case errors.As(err, &remote):
		return codeError, append([]byte{remote.Code}, remote.Payload...)
	case errors.Is(err, ErrBusy):
		return codeBusy, nil
	}
	return codeError, append([]byte{0}, err.Error()...)
}
