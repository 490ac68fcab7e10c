package main

import (
	"fmt"
	"slices"

	"storj.io/drpc"

	"peer/pb"
)

var mcpConfigurator = service{
	unary("/proto.MCPConfigurator/GetMCPServerConfigs", 0, (*session).mcpServers),
	unary("/proto.MCPConfigurator/GetMCPServerAccessTokensBatch", 0, (*session).mcpTokens),
}

var providerConfigurator = service{
	unary("/proto.ProviderConfigurator/GetAIProviders", 1, (*session).providers),
	streaming("/proto.ProviderConfigurator/WatchAIProviders", 2, (*session).watchProviders),
}

func (s MCPServer) message() *pb.MCPServerConfig {
	return &pb.MCPServerConfig{
		Id: s.ID, Url: s.URL, ToolAllowRegex: s.ToolAllowRegex, ToolDenyRegex: s.ToolDenyRegex,
	}
}

func (s *session) mcpServers(*pb.GetMCPServerConfigsRequest) (*pb.GetMCPServerConfigsResponse, error) {
	config := s.peer.snapshot().MCP
	out := &pb.GetMCPServerConfigsResponse{}
	if config.Coder != nil {
		out.CoderMcpConfig = config.Coder.message()
	}
	for _, server := range config.Servers {
		out.ExternalAuthMcpConfigs = append(out.ExternalAuthMcpConfigs, server.message())
	}
	return out, nil
}

func (s *session) mcpTokens(in *pb.GetMCPServerAccessTokensBatchRequest) (*pb.GetMCPServerAccessTokensBatchResponse, error) {
	out := &pb.GetMCPServerAccessTokensBatchResponse{
		AccessTokens: map[string]string{}, Errors: map[string]string{},
	}
	if len(in.GetMcpServerConfigIds()) == 0 {
		return out, nil
	}
	if err := checkUUID(in.GetUserId()); err != nil {
		return nil, fmt.Errorf("parse user_id: %w", err)
	}
	config := s.peer.snapshot().MCP
	tokens := config.Tokens[in.GetUserId()]
	if len(tokens) == 0 && len(config.Errors) == 0 {
		return out, nil
	}
	for _, id := range in.GetMcpServerConfigIds() {
		known := slices.ContainsFunc(config.Servers, func(m MCPServer) bool { return m.ID == id })
		switch {
		case config.Errors[id] != "":
			out.Errors[id] = config.Errors[id]
		case tokens[id] != "":
			out.AccessTokens[id] = tokens[id]
		case known:
			out.Errors[id] = "no external auth link found"
		default:
			out.Errors[id] = "no MCP config found"
		}
	}
	return out, nil
}

// providers lists disabled ones too, without their secrets.
func (s *session) providers(*pb.GetAIProvidersRequest) (*pb.GetAIProvidersResponse, error) {
	out := &pb.GetAIProvidersResponse{}
	for _, p := range s.peer.snapshot().Providers {
		enabled := p.Enabled == nil || *p.Enabled
		message := &pb.AIProvider{Name: p.Name, Type: p.Type, Enabled: enabled, BaseUrl: p.BaseURL}
		if enabled {
			message.Keys = p.Keys
			message.Bedrock = p.Bedrock.message(s.atLeast(4))
		}
		out.Providers = append(out.Providers, message)
	}
	return out, nil
}

func (b *Bedrock) message(resolved bool) *pb.AIProviderBedrock {
	if b == nil {
		return nil
	}
	message := &pb.AIProviderBedrock{
		Region: b.Region, AccessKey: b.AccessKey, AccessKeySecret: b.AccessKeySecret,
		Model: b.Model, SmallFastModel: b.SmallFastModel,
		RoleArn: b.RoleARN, ExternalId: b.ExternalID, Protocol: b.Protocol,
	}
	if resolved {
		message.ResolvedModel = b.ResolvedModel
		message.ResolvedSmallFastModel = b.ResolvedSmallFastModel
	}
	return message
}

// watcher is one WatchAIProviders stream.
type watcher struct {
	signals chan struct{}
	end     chan error
}

// watchProviders sends one message at once and one for each signal.
func (s *session) watchProviders(_ *pb.WatchAIProvidersRequest, stream drpc.Stream) error {
	// More signals than a test ever sends; beyond it they merge, as coderd's may.
	w := &watcher{signals: make(chan struct{}, 1024), end: make(chan error, 1)}
	p := s.peer
	p.update(func() { p.watchers[w] = struct{}{} })
	defer p.update(func() { delete(p.watchers, w) })
	for {
		if err := stream.MsgSend(&pb.WatchAIProvidersResponse{}, encoding{}); err != nil {
			return err
		}
		select {
		case <-w.signals:
		case err := <-w.end:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// signalWatchers tells every watcher that the providers changed.
func (p *Peer) signalWatchers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		select {
		case w.signals <- struct{}{}:
		default:
		}
	}
	return len(p.watchers)
}

// endWatchers ends every watch, with an error or as a server that says goodbye.
func (p *Peer) endWatchers(err error) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		select {
		case w.end <- err:
		default:
		}
	}
	return len(p.watchers)
}
