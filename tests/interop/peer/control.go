package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"storj.io/drpc/drpcerr"

	"peer/pb"
)

// How long a reset waits for the sessions that it ended.
const resetWait = 10 * time.Second

type handler func(r *http.Request) (any, error)

func (p *Peer) controlHandler() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]handler{
		"POST /reset":          p.reset,
		"GET /config":          func(*http.Request) (any, error) { return p.snapshot(), nil },
		"PATCH /config":        p.patchConfig,
		"GET /faults":          p.getFaults,
		"POST /faults":         p.addFaults,
		"DELETE /faults":       p.clearFaults,
		"POST /release":        func(*http.Request) (any, error) { p.release(); return struct{}{}, nil },
		"GET /upgrades":        p.getUpgrades,
		"GET /sessions":        p.getSessions,
		"POST /sessions/drop":  p.dropSessions,
		"POST /sessions/stall": p.stallSessions,
		"POST /sessions/goaway": p.onSessions(func(s *session, _ *action) any {
			return errorText(s.mux.GoAway())
		}),
		"POST /sessions/ping":    p.onSessions(ping),
		"POST /sessions/check":   p.onSessions(func(s *session, _ *action) any { s.checkKey(); return nil }),
		"POST /sessions/inject":  p.onSessions(inject),
		"GET /calls":             p.getCalls,
		"GET /records":           p.getRecords,
		"DELETE /records":        p.deleteRecords,
		"POST /providers/signal": p.signalProviders,
		"POST /providers/end":    p.endProviders,
		"POST /listener":         p.setListener,
		"GET /descriptor":        descriptor,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := handle(r)
			if err != nil {
				writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			writeJSON(w, http.StatusOK, body)
		})
	}
	return mux
}

// decode reads a JSON body strictly: a misspelt field is an error and not a default.
func decode(r io.Reader, into any) error {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (p *Peer) reset(*http.Request) (any, error) {
	p.release()
	sessions := p.openSessions(nil)
	for _, s := range sessions {
		s.tcp.stall(false)
		s.tcp.reset()
	}
	closed := func() bool {
		return !slices.ContainsFunc(sessions, func(s *session) bool { return s.Open })
	}
	if !p.await(context.Background(), resetWait, closed) {
		return nil, errors.New("sessions did not end")
	}
	p.update(p.clear)
	return struct{}{}, p.openListener()
}

// patchConfig replaces the parts that are named, each as a whole; only "server" is merged.
func (p *Peer) patchConfig(r *http.Request) (any, error) {
	var parts map[string]json.RawMessage
	if err := decode(r.Body, &parts); err != nil {
		return nil, err
	}
	// Into fresh values: handlers hold snapshots that share slices and maps.
	config := p.snapshot()
	config.Server.Paths = slices.Clone(config.Server.Paths)
	for name, raw := range parts {
		if err := config.replace(name, raw); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, _, err := parseVersion(config.Server.Version); err != nil {
		return nil, err
	}
	p.update(func() { p.config = config })
	if _, ok := parts["providers"]; ok && r.URL.Query().Get("signal") != "false" {
		p.signalWatchers()
	}
	if r.URL.Query().Get("check") != "false" {
		for _, s := range p.openSessions(nil) {
			s.checkKey()
		}
	}
	return config, nil
}

func (c *Config) replace(name string, raw json.RawMessage) error {
	parts := map[string]func() error{
		"server":       func() error { return decode(bytes.NewReader(raw), &c.Server) },
		"gateway_keys": func() error { c.GatewayKeys = []string{}; return decode(bytes.NewReader(raw), &c.GatewayKeys) },
		"users":        func() error { c.Users = []User{}; return decode(bytes.NewReader(raw), &c.Users) },
		"budgets":      func() error { c.Budgets = map[string]Budget{}; return decode(bytes.NewReader(raw), &c.Budgets) },
		"providers":    func() error { c.Providers = []Provider{}; return decode(bytes.NewReader(raw), &c.Providers) },
		"mcp":          func() error { c.MCP = defaultConfig().MCP; return decode(bytes.NewReader(raw), &c.MCP) },
	}
	replace, ok := parts[name]
	if !ok {
		return errors.New("unknown part of the configuration")
	}
	return replace()
}

func (p *Peer) getFaults(*http.Request) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Copied through JSON: the quotas change while the answer is written.
	raw, err := json.Marshal(p.faults)
	return json.RawMessage(raw), err
}

func (p *Peer) addFaults(r *http.Request) (any, error) {
	var faults Faults
	if err := decode(r.Body, &faults); err != nil {
		return nil, err
	}
	if err := faults.validate(); err != nil {
		return nil, err
	}
	p.update(func() {
		p.faults.Upgrade = append(p.faults.Upgrade, faults.Upgrade...)
		p.faults.RPC = append(p.faults.RPC, faults.RPC...)
	})
	return p.getFaults(r)
}

func (p *Peer) clearFaults(*http.Request) (any, error) {
	p.update(func() { p.faults = Faults{} })
	p.release()
	return struct{}{}, nil
}

// action is the body of the requests that act on sessions.
type action struct {
	Session *int   `json:"session"`
	How     string `json:"how"`
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Stalled *bool  `json:"stalled"`
	Hex     string `json:"hex"`
	Text    bool   `json:"text"`
}

type outcome struct {
	Session int `json:"session"`
	Result  any `json:"result"`
}

// onSessions makes a handler that does something to one or all open sessions.
func (p *Peer) onSessions(do func(*session, *action) any) handler {
	return func(r *http.Request) (any, error) {
		var a action
		if err := decode(r.Body, &a); err != nil {
			return nil, err
		}
		outcomes := []outcome{}
		for _, s := range p.openSessions(a.Session) {
			outcomes = append(outcomes, outcome{s.Seq, do(s, &a)})
		}
		return map[string]any{"sessions": outcomes}, nil
	}
}

func (p *Peer) dropSessions(r *http.Request) (any, error) {
	return p.onSessions(func(s *session, a *action) any {
		return errorText(s.drop(a.How, a.Code, a.Reason))
	})(r)
}

func (p *Peer) stallSessions(r *http.Request) (any, error) {
	return p.onSessions(func(s *session, a *action) any {
		on := a.Stalled == nil || *a.Stalled
		s.tcp.stall(on)
		p.update(func() { s.Stalled = on })
		return nil
	})(r)
}

// ping measures a yamux round trip, in microseconds.
func ping(s *session, _ *action) any {
	took, err := s.mux.Ping()
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	return map[string]any{"rtt_us": took.Microseconds()}
}

// inject sends a WebSocket message of the test's own between the session's.
func inject(s *session, a *action) any {
	raw, err := hex.DecodeString(a.Hex)
	if err != nil {
		return errorText(err)
	}
	kind := websocket.MessageBinary
	if a.Text {
		kind = websocket.MessageText
	}
	return errorText(s.ws.Write(context.Background(), kind, raw))
}

func errorText(err error) any {
	if err == nil {
		return nil
	}
	return map[string]any{"error": err.Error()}
}

func (p *Peer) signalProviders(r *http.Request) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	if !p.await(r.Context(), q.timeout, func() bool { return len(p.watchers) >= q.min }) {
		return nil, errors.New("not so many watchers")
	}
	return map[string]int{"watchers": p.signalWatchers()}, nil
}

func (p *Peer) endProviders(r *http.Request) (any, error) {
	var end struct {
		Error string `json:"error"`
		Code  uint64 `json:"code"`
	}
	if err := decode(r.Body, &end); err != nil {
		return nil, err
	}
	var err error
	if end.Error != "" {
		err = drpcerr.WithCode(errors.New(end.Error), end.Code)
	}
	return map[string]int{"watchers": p.endWatchers(err)}, nil
}

func (p *Peer) setListener(r *http.Request) (any, error) {
	var wanted struct {
		Open bool `json:"open"`
	}
	if err := decode(r.Body, &wanted); err != nil {
		return nil, err
	}
	if !wanted.Open {
		p.closeListener()
		return struct{}{}, nil
	}
	return struct{}{}, p.openListener()
}

// descriptor lets a test compare what was compiled in here with the .proto of today.
func descriptor(*http.Request) (any, error) {
	raw, err := proto.Marshal(protodesc.ToFileDescriptorProto(pb.File_aigateway_actors_control_coderd_wire_coderd_proto))
	return map[string]string{"file_descriptor": base64.StdEncoding.EncodeToString(raw)}, err
}
