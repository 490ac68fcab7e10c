package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/hashicorp/yamux"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcserver"
	"storj.io/drpc/drpcwire"
)

// Largest DRPC message, in bytes, as coderd sets it on both sides.
const maxMessage = 4 << 20

// session is one gateway connected over one WebSocket.  Peer.mu guards the exported fields.
type session struct {
	Seq          int     `json:"seq"`
	Path         string  `json:"path"`
	Version      string  `json:"version"`
	Key          string  `json:"key"`
	BuildVersion string  `json:"build_version"`
	Open         bool    `json:"open"`
	Stalled      bool    `json:"stalled"`
	Heartbeats   int     `json:"heartbeats"`
	Accepted     int     `json:"accepted_streams"`
	Error        *string `json:"error"`

	peer   *Peer
	config Config // as it was when the session began: a coderd does not change version
	tcp    *gatedConn
	ws     *websocket.Conn
	mux    *yamux.Session
	cancel context.CancelFunc
}

type streamKey struct{}

func (p *Peer) serveSession(ws *websocket.Conn, tcp *gatedConn, upgrade *Upgrade, config Config) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	// After the wrapping, which switches the limit off.
	ws.SetReadLimit(readLimit)

	settings := yamux.DefaultConfig()
	settings.LogOutput = io.Discard
	settings.KeepAliveInterval = p.options.keepAlive
	settings.ConnectionWriteTimeout = p.options.writeTimeout
	mux, err := yamux.Server(conn, settings)
	if err != nil {
		_ = ws.Close(websocket.StatusInternalError, "multiplex server: "+err.Error())
		return
	}
	s := &session{
		Path: upgrade.Path, Version: upgrade.Version, Key: upgrade.Key,
		BuildVersion: upgrade.BuildVersion, Open: true,
		peer: p, config: config, tcp: tcp, ws: ws, mux: mux, cancel: cancel,
	}
	p.update(func() {
		s.Seq = len(p.sessions) + 1
		p.sessions = append(p.sessions, s)
	})
	go s.heartbeat(ctx)
	err = s.serve(ctx)
	_ = mux.Close()
	_ = ws.Close(websocket.StatusGoingAway, "")
	p.update(func() {
		s.Open = false
		if err != nil {
			text := err.Error()
			s.Error = &text
		}
	})
}

// serve accepts yamux streams until the session ends, each with a DRPC server of its own.
func (s *session) serve(ctx context.Context) error {
	router := drpcmux.New()
	for _, service := range services(s.config.Server.Version) {
		if err := router.Register(s, service); err != nil {
			return err
		}
	}
	server := drpcserver.NewWithOptions(router, drpcserver.Options{
		Manager: drpcmanager.Options{
			Reader: drpcwire.ReaderOptions{MaximumBufferSize: maxMessage},
		},
	})
	var streams sync.WaitGroup
	defer streams.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		stream, err := s.mux.AcceptStreamWithContext(ctx)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		s.peer.update(func() { s.Accepted++ })
		streams.Add(1)
		go func() {
			defer streams.Done()
			_ = server.ServeOne(context.WithValue(ctx, streamKey{}, stream), stream)
		}()
	}
}

// heartbeat checks the gateway key at once and then at each interval.
func (s *session) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(s.peer.options.heartbeat)
	defer ticker.Stop()
	for {
		s.checkKey()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// checkKey ends the session when its gateway key or the licence is gone.
func (s *session) checkKey() {
	var allowed bool
	s.peer.update(func() {
		config := s.peer.config
		allowed = config.Server.Licensed && slices.Contains(config.GatewayKeys, s.Key)
		if allowed {
			s.Heartbeats++
		}
	})
	if !allowed {
		s.cancel()
	}
}

// openSessions returns the sessions that are open; with a number, only that one.
func (p *Peer) openSessions(number *int) []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*session
	for _, s := range p.sessions {
		if s.Open && (number == nil || *number == s.Seq) {
			found = append(found, s)
		}
	}
	return found
}

// drop ends the session in one of the ways a network or a coderd ends one.
func (s *session) drop(how string, code int, reason string) error {
	switch how {
	case "", "reset":
		s.tcp.reset()
	case "fin":
		_ = s.tcp.Close()
	case "cancel":
		s.cancel()
	case "yamux":
		go func() { _ = s.mux.Close() }()
	case "close":
		if code == 0 {
			code = int(websocket.StatusGoingAway)
		}
		// Close waits for the gateway's answer; the caller should not.
		go func() { _ = s.ws.Close(websocket.StatusCode(code), reason) }()
	default:
		return errors.New("how must be reset, fin, cancel, yamux or close")
	}
	return nil
}
