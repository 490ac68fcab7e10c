package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// Config is everything a test may set about the deployment that the peer plays.
type Config struct {
	Server      ServerConfig      `json:"server"`
	GatewayKeys []string          `json:"gateway_keys"`
	Users       []User            `json:"users"`
	Budgets     map[string]Budget `json:"budgets"`
	Providers   []Provider        `json:"providers"`
	MCP         MCPConfig         `json:"mcp"`
}

type ServerConfig struct {
	Version            string   `json:"version"`
	Paths              []string `json:"paths"`
	Licensed           bool     `json:"licensed"`
	BuildVersion       string   `json:"build_version"`
	AuthorizationCodes bool     `json:"authorization_codes"`
}

// User is one API key with its owner; a person with two keys is listed twice.
type User struct {
	Key         string   `json:"key"`
	OwnerID     string   `json:"owner_id"`
	Username    string   `json:"username"`
	Email       string   `json:"email"`
	WorkspaceID string   `json:"workspace_id"`
	Expired     bool     `json:"expired"`
	State       string   `json:"state"`
	Models      []string `json:"models"`
}

type Budget struct {
	Exceeded         bool   `json:"exceeded"`
	SpendLimitMicros *int64 `json:"spend_limit_micros"`
}

type Provider struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Enabled *bool    `json:"enabled"`
	BaseURL string   `json:"base_url"`
	Keys    []string `json:"keys"`
	Bedrock *Bedrock `json:"bedrock"`
}

type Bedrock struct {
	Region                 string `json:"region"`
	AccessKey              string `json:"access_key"`
	AccessKeySecret        string `json:"access_key_secret"`
	Model                  string `json:"model"`
	SmallFastModel         string `json:"small_fast_model"`
	RoleARN                string `json:"role_arn"`
	ExternalID             string `json:"external_id"`
	Protocol               string `json:"protocol"`
	ResolvedModel          string `json:"resolved_model"`
	ResolvedSmallFastModel string `json:"resolved_small_fast_model"`
}

type MCPConfig struct {
	Coder   *MCPServer                   `json:"coder"`
	Servers []MCPServer                  `json:"servers"`
	Tokens  map[string]map[string]string `json:"tokens"`
	Errors  map[string]string            `json:"errors"`
}

type MCPServer struct {
	ID             string `json:"id"`
	URL            string `json:"url"`
	ToolAllowRegex string `json:"tool_allow_regex"`
	ToolDenyRegex  string `json:"tool_deny_regex"`
}

func defaultConfig() Config {
	return Config{
		Server: ServerConfig{
			Version:            "1.4",
			Paths:              []string{"/api/v2/ai-gateway/serve", "/api/v2/aibridge/serve"},
			Licensed:           true,
			BuildVersion:       "v0.0.0-peer",
			AuthorizationCodes: true,
		},
		GatewayKeys: []string{"gateway-key"},
		Users:       []User{},
		Budgets:     map[string]Budget{},
		Providers:   []Provider{},
		MCP: MCPConfig{
			Servers: []MCPServer{},
			Tokens:  map[string]map[string]string{},
			Errors:  map[string]string{},
		},
	}
}

// Upgrade is one request for the endpoint, granted or not.
type Upgrade struct {
	Seq          int         `json:"seq"`
	Path         string      `json:"path"`
	Version      string      `json:"version"`
	Key          string      `json:"key"`
	BuildVersion string      `json:"build_version"`
	Headers      http.Header `json:"headers"`
	Status       int         `json:"status"`
}

// Record is one record that the peer took and stored.
type Record struct {
	Seq     int            `json:"seq"`
	RPC     string         `json:"rpc"`
	Session int            `json:"session"`
	Record  map[string]any `json:"record"`
}

// Peer is the whole program's state; mu guards everything below it.
type Peer struct {
	options Options
	tls     *tls.Config
	front   *http.Server

	mu            sync.Mutex
	changed       chan struct{} // closed and replaced whenever something below changes
	config        Config
	faults        Faults
	released      chan struct{} // closed and replaced by a release
	listener      net.Listener
	address       *net.TCPAddr
	sessions      []*session
	upgrades      []*Upgrade
	calls         []*call
	records       []Record
	interceptions map[string]bool // id -> has ended
	watchers      map[*watcher]struct{}
}

func newPeer(o Options) *Peer {
	p := &Peer{options: o, changed: make(chan struct{}), released: make(chan struct{})}
	p.front = &http.Server{
		Handler: http.HandlerFunc(p.serveEndpoint),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	p.clear()
	return p
}

// clear forgets everything a test did.  The caller holds mu, or is alone.
func (p *Peer) clear() {
	p.config = defaultConfig()
	p.faults = Faults{}
	p.sessions = nil
	p.upgrades = nil
	p.calls = nil
	p.records = nil
	p.interceptions = map[string]bool{}
	p.watchers = map[*watcher]struct{}{}
}

// update changes state under the lock and wakes everyone who waits for a change.
func (p *Peer) update(change func()) {
	p.mu.Lock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

// await returns when met() is true (it is called under the lock) or the time is up,
// and says which.
func (p *Peer) await(ctx context.Context, timeout time.Duration, met func() bool) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		p.mu.Lock()
		done, changed := met(), p.changed
		p.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

func (p *Peer) snapshot() Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config
}

func (p *Peer) endpoint() *net.TCPAddr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// openListener listens on the port of the first time again, so that a gateway finds the
// peer where it was.
func (p *Peer) openListener() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	address := p.options.addr
	if p.address != nil {
		address = p.address.String()
	}
	raw, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	p.address = raw.Addr().(*net.TCPAddr)
	p.listener = gatedListener{raw.(*net.TCPListener)}
	if p.tls != nil {
		p.listener = tls.NewListener(p.listener, p.tls)
	}
	go func(listener net.Listener) { _ = p.front.Serve(listener) }(p.listener)
	return nil
}

// closeListener refuses new TCP connections; those that are open stay.
func (p *Peer) closeListener() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}
