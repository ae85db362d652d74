// The Go client of openapi-generator: completes, streams, scores, chats, is refused; a JSON line with what it got.
// Argument: the server's URL.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	deqd "deqd.example/generated"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func request() *deqd.CompletionRequest {
	r := deqd.NewCompletionRequest()
	text := "ROMEO:"
	r.SetPrompt(deqd.CompletionRequestPrompt{String: &text})
	r.SetTemperature(0)
	r.SetMaxTokens(12)
	return r
}

func main() {
	config := deqd.NewConfiguration()
	config.Servers = deqd.ServerConfigurations{{URL: os.Args[1]}}
	api, ctx := deqd.NewAPIClient(config).GenerationAPI, context.Background()

	whole, _, err := api.CreateCompletion(ctx).CompletionRequest(*request()).Execute()
	must(err)
	score := request()
	score.SetMaxTokens(0)
	score.SetEcho(true)
	score.SetLogprobs(1)
	scores, _, err := api.CreateCompletion(ctx).CompletionRequest(*score).Execute()
	must(err)

	hello := "Hello"
	message := deqd.NewMessage("user")
	message.SetContent(deqd.MessageContent{String: &hello})
	talk := deqd.NewChatCompletionRequest([]deqd.Message{*message})
	talk.SetMaxTokens(4)
	talk.SetTemperature(0)
	chat, _, err := api.CreateChatCompletion(ctx).ChatCompletionRequest(*talk).Execute()
	must(err)

	// the generated call reads the whole body and knows JSON only: events are in the response that it hands back
	stream := request()
	stream.SetStream(true)
	_, response, err := api.CreateCompletion(ctx).CompletionRequest(*stream).Execute()
	if response == nil {
		panic(err)
	}
	streamed := ""
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: {"); ok {
			var chunk deqd.CompletionChunk
			must(json.Unmarshal([]byte("{"+data), &chunk))
			streamed += chunk.Choices[0].Text
		}
	}

	wrong := request()
	wrong.SetMaxTokens(-1)
	_, _, err = api.CreateCompletion(ctx).CompletionRequest(*wrong).Execute()
	var refusal *deqd.GenericOpenAPIError
	if !errors.As(err, &refusal) {
		panic(err)
	}
	body := refusal.Model().(deqd.Error)
	line, err := json.Marshal(map[string]any{
		"text": whole.Choices[0].Text, "streamed": streamed, "scores": scores.Choices[0].GetLogprobs().TokenLogprobs,
		"chat": chat.Choices[0].Message.Content, "refused": body.Error.GetParam(), "seed": whole.Deq.Seed,
	})
	must(err)
	fmt.Println(string(line))
}
