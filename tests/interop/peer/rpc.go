package main

import (
	"context"
	"errors"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/yamux"
	"google.golang.org/protobuf/proto"
	"storj.io/drpc"
	"storj.io/drpc/drpcerr"
)

// encoding is what DRPC's generated code would bring along.
type encoding struct{}

func (encoding) Marshal(msg drpc.Message) ([]byte, error) {
	return proto.Marshal(msg.(proto.Message))
}

func (encoding) Unmarshal(buf []byte, msg drpc.Message) error {
	return proto.Unmarshal(buf, msg.(proto.Message))
}

// method is one RPC as drpcmux wants it described: shape is a function value whose type
// names the messages, receive is what is called.
type method struct {
	rpc     string
	since   int // minor API version
	shape   any
	receive drpc.Receiver
}

// service implements drpc.Description.
type service []method

func (s service) NumMethods() int { return len(s) }

func (s service) Method(n int) (string, drpc.Encoding, drpc.Receiver, any, bool) {
	if n < 0 || n >= len(s) {
		return "", nil, nil, nil, false
	}
	return s[n].rpc, encoding{}, s[n].receive, s[n].shape, true
}

// unary describes an RPC with one request and one answer.
func unary[In, Out proto.Message](rpc string, since int, handle func(*session, In) (Out, error)) method {
	return method{
		rpc:   rpc,
		since: since,
		shape: func(*session, context.Context, In) (Out, error) { panic("only its type is used") },
		receive: func(srv any, ctx context.Context, in1, _ any) (drpc.Message, error) {
			s := srv.(*session)
			return s.answer(ctx, rpc, in1.(In), func() (proto.Message, error) {
				return handle(s, in1.(In))
			})
		},
	}
}

// streaming describes an RPC with one request and a stream of answers.
func streaming[In proto.Message](rpc string, since int, handle func(*session, In, drpc.Stream) error) method {
	return method{
		rpc:   rpc,
		since: since,
		shape: func(*session, In, drpc.Stream) error { panic("only its type is used") },
		receive: func(srv any, ctx context.Context, in1, in2 any) (drpc.Message, error) {
			s := srv.(*session)
			return s.answer(ctx, rpc, in1.(In), func() (proto.Message, error) {
				return nil, handle(s, in1.(In), in2.(drpc.Stream))
			})
		},
	}
}

// services returns what a server of this API version offers; calls it lacks are unknown.
func services(version string) []service {
	_, minor, _ := parseVersion(version)
	var offered []service
	for _, all := range []service{recorder, mcpConfigurator, authorizer, providerConfigurator} {
		var known service
		for _, m := range all {
			if m.since <= minor {
				known = append(known, m)
			}
		}
		offered = append(offered, known)
	}
	return offered
}

// call is one RPC as the control API shows it.
type call struct {
	Seq     int            `json:"seq"`
	RPC     string         `json:"rpc"`
	Session int            `json:"session"`
	Stream  uint32         `json:"stream"`
	Request map[string]any `json:"request"`
	State   string         `json:"state"` // running, stalled, done, error, cancelled, faulted
	Error   string         `json:"error"`
	Code    uint64         `json:"code"`
}

// answer runs one call with the faults that tests asked for.
func (s *session) answer(
	ctx context.Context, rpc string, request proto.Message, handle func() (proto.Message, error),
) (drpc.Message, error) {
	p := s.peer
	stream := ctx.Value(streamKey{}).(*yamux.Stream)
	c := &call{RPC: path.Base(rpc), Session: s.Seq, Stream: stream.StreamID(), Request: view(request), State: "running"}
	p.update(func() {
		c.Seq = len(p.calls) + 1
		p.calls = append(p.calls, c)
	})
	rule := p.rpcFault(c.RPC, c.Request)
	var out proto.Message
	err, handled, silent := error(nil), false, false
	if rule != nil && rule.When != "after" {
		silent, handled, err = s.disturb(ctx, c, rule, stream)
	}
	if !handled {
		out, err = handle()
		if err == nil && rule != nil && rule.When == "after" {
			silent, _, err = s.disturb(ctx, c, rule, stream)
		}
	}
	p.update(func() { c.finish(ctx, err, silent) })
	if err != nil || silent || out == nil {
		return nil, err
	}
	return out, nil
}

func (c *call) finish(ctx context.Context, err error, silent bool) {
	switch {
	case silent:
		c.State = "faulted"
	case err == nil:
		c.State = "done"
	case ctx.Err() != nil:
		c.State = "cancelled"
	default:
		c.State, c.Error, c.Code = "error", err.Error(), drpcerr.Code(err)
	}
}

// disturb carries out a fault.  silent: nothing useful reaches the gateway; handled: the
// real handler must not run any more.
func (s *session) disturb(
	ctx context.Context, c *call, rule *RPCFault, stream *yamux.Stream,
) (silent, handled bool, err error) {
	if rule.DelayMS > 0 {
		select {
		case <-time.After(rule.delay()):
		case <-ctx.Done():
			return false, true, ctx.Err()
		}
	}
	switch rule.Action {
	case "error":
		return false, true, rule.err()
	case "stall":
		released := s.peer.releasedChannel()
		s.peer.update(func() { c.State = "stalled" })
		select {
		case <-released:
			s.peer.update(func() { c.State = "running" })
		case <-ctx.Done():
			return false, true, ctx.Err()
		}
	case "fin":
		_ = stream.Close()
		return true, true, errors.New("stream closed by a fault")
	case "empty":
		return true, true, nil
	case "drop":
		s.tcp.reset()
		return true, true, errors.New("connection dropped by a fault")
	}
	return false, false, nil
}

// atLeast says whether the server that this session talks to has reached an API minor.
func (s *session) atLeast(minor int) bool {
	_, own, err := strings.Cut(s.config.Server.Version, ".")
	n, _ := strconv.Atoi(own)
	return err && n >= minor
}
