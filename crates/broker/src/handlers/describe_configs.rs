//! DescribeConfigs: what holds for a topic or a broker, and where it comes from; ListConfigResources (KIP-1000,
//! KIP-1142).

use std::collections::BTreeMap;

use metadata::ConfigResource;
use metadata::config::{
    ConfigEntry, DynamicConfigs, describe_broker_configs, describe_broker_defaults, describe_client_metrics_configs,
    describe_group_configs, describe_topic_configs,
};
use protocol::error::ErrorCode;
use protocol::messages::describe_configs_request::DescribeConfigsResource;
use protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
    list_config_resources_response,
};
use protocol::wire::DecodeError;

use super::metadata::is_valid_topic_name;
use crate::node::Node;
use crate::request::Context;

const TOPIC: i8 = ConfigResource::TOPIC;
const BROKER: i8 = ConfigResource::BROKER;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

impl Node {
    pub(crate) fn handle_describe_configs(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: DescribeConfigsRequest<'_> = cx.decode(body)?;
        let mut results = Vec::with_capacity(request.resources.len());
        for resource in &request.resources {
            let mut result = DescribeConfigsResult {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone().into_owned().into(),
                ..Default::default()
            };
            match self.configs_of(resource) {
                Ok(entries) => {
                    let wanted = |e: &ConfigEntry| {
                        let named = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty());
                        named.is_none_or(|keys| keys.iter().any(|k| *k == e.name))
                    };
                    let shown = entries.into_iter().filter(wanted);
                    result.configs = shown.map(|e| config_result(e, request.include_synonyms)).collect();
                }
                Err((code, message)) => {
                    result.error_code = code.into();
                    result.error_message = Some(message.into());
                }
            }
            results.push(result);
        }
        self.respond(cx.reply, &DescribeConfigsResponse { results, ..Default::default() });
        Ok(())
    }

    pub(crate) fn handle_list_config_resources(&mut self, cx: &Context, body: &[u8]) -> Result<(), DecodeError> {
        let request: ListConfigResourcesRequest = cx.decode(body)?;
        // The first version knew of client metrics only, and asked for them without saying so.
        let wanted: &[i8] = match (cx.reply.version, request.resource_types.as_slice()) {
            (0, _) => &[CLIENT_METRICS],
            (_, []) => &[TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP],
            (_, kinds) => kinds,
        };
        let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
        if wanted.iter().any(|kind| !known.contains(kind)) {
            let error_code = ErrorCode::UnsupportedVersion.into();
            self.respond(cx.reply, &ListConfigResourcesResponse { error_code, ..Default::default() });
            return Ok(());
        }
        let mut found: Vec<(i8, String)> = Vec::new();
        if wanted.contains(&TOPIC) {
            found.extend(self.image.topics.values().map(|topic| (TOPIC, topic.name.clone())));
        }
        for kind in [BROKER, BROKER_LOGGER].into_iter().filter(|kind| wanted.contains(kind)) {
            found.extend(self.image.brokers.keys().map(|id| (kind, id.to_string())));
        }
        let set = self.image.configs.keys().filter(|r| [CLIENT_METRICS, GROUP].contains(&r.kind));
        found.extend(set.filter(|r| wanted.contains(&r.kind)).map(|r| (r.kind, r.name.clone())));
        let resource = |(kind, name): (i8, String)| list_config_resources_response::ConfigResource {
            resource_name: name.into(),
            resource_type: kind,
            ..Default::default()
        };
        let config_resources = found.into_iter().map(resource).collect();
        self.respond(cx.reply, &ListConfigResourcesResponse { config_resources, ..Default::default() });
        Ok(())
    }

    fn configs_of(&self, resource: &DescribeConfigsResource<'_>) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
        let name = resource.resource_name.as_ref();
        let own = |kind: i8, name: &str| self.image.configs.get(&ConfigResource { kind, name: name.to_owned() });
        let cluster = self.image.configs.get(&ConfigResource::all_brokers());
        let own_id = self.config.node_id.to_string();
        let dynamic = DynamicConfigs { broker: own(BROKER, &own_id), cluster };
        match resource.resource_type {
            TOPIC if !is_valid_topic_name(name) => {
                Err((ErrorCode::InvalidTopicException, format!("{name:?} is no legal topic name")))
            }
            TOPIC if self.image.topic(name).is_none() => Err((ErrorCode::UnknownTopicOrPartition, String::new())),
            TOPIC => Ok(describe_topic_configs(self.image.topic_configs(name), dynamic, &self.config)),
            BROKER if name.is_empty() => Ok(describe_broker_defaults(cluster.unwrap_or(&BTreeMap::new()))),
            BROKER if name == own_id => Ok(describe_broker_configs(dynamic, &self.config)),
            BROKER => Err((
                ErrorCode::InvalidRequest,
                format!("Unexpected broker id, expected {own_id} or empty string, but received {name}"),
            )),
            BROKER_LOGGER => Err((ErrorCode::InvalidRequest, "this broker has no loggers that can be set".to_owned())),
            CLIENT_METRICS | GROUP if name.is_empty() => {
                Err((ErrorCode::InvalidRequest, "groups and subscriptions to metrics have names".to_owned()))
            }
            CLIENT_METRICS => Ok(describe_client_metrics_configs(own(CLIENT_METRICS, name))),
            GROUP => Ok(describe_group_configs(own(GROUP, name), dynamic, &self.config)),
            kind => Err((ErrorCode::InvalidRequest, format!("Unsupported resource type: {kind}"))),
        }
    }
}

fn config_result(entry: ConfigEntry, with_synonyms: bool) -> DescribeConfigsResourceResult<'static> {
    let synonyms = entry.synonyms.into_iter().filter(|_| with_synonyms).map(|s| DescribeConfigsSynonym {
        name: s.name.into(),
        value: s.value.map(Into::into),
        source: s.source as i8,
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: entry.name.into(),
        value: entry.value.map(Into::into),
        read_only: entry.read_only,
        config_source: entry.source as i8,
        is_sensitive: entry.is_sensitive,
        synonyms: synonyms.collect(),
        config_type: entry.config_type,
        documentation: None,
        ..Default::default()
    }
}
